# What rotkv builds on: the system's own package first; where it has none, a pinned release.
include(FetchContent)

macro(rotkv_library name url sha256)
    set(rotkv_url "${url}")
    if(NOT rotkv_url MATCHES "^https:")
        set(rotkv_url "https://github.com/${url}")
    endif()
    FetchContent_Declare(${name} URL ${rotkv_url} URL_HASH SHA256=${sha256}
                         DOWNLOAD_EXTRACT_TIMESTAMP ON SYSTEM ${ARGN} FIND_PACKAGE_ARGS QUIET)
    FetchContent_MakeAvailable(${name})
endmacro()

macro(rotkv_headers name target url sha256)  # nothing to build: its CMakeLists.txt stays unread
    rotkv_library(${name} ${url} ${sha256} SOURCE_SUBDIR include)
    if(NOT TARGET ${target})
        FetchContent_GetProperties(${name} SOURCE_DIR source)
        add_library(${target} INTERFACE IMPORTED)
        target_include_directories(${target} INTERFACE ${source}/include)
    endif()
endmacro()

# xsimd, as Debian builds it, needs xtl.
rotkv_headers(xtl xtl xtensor-stack/xtl/archive/refs/tags/0.7.7.tar.gz
              44fb99fbf5e56af5c43619fc8c29aa58e5fad18f3ba6e7d9c55c111b62df1fbb)
rotkv_headers(xsimd xsimd xtensor-stack/xsimd/archive/refs/tags/13.2.0.tar.gz
              edd8cd3d548c185adc70321c53c36df41abe64c1fe2c67bc6d93c3ecda82447a)
if(ROTKV_BUILD_TOOLS)
    rotkv_headers(xtensor xtensor xtensor-stack/xtensor/archive/refs/tags/0.25.0.tar.gz
                  32d5d9fd23998c57e746c375a544edf544b74f0a18ad6bc3c38cbba968d5e6c7)
    set(BENCHMARK_ENABLE_TESTING OFF)
    rotkv_library(benchmark google/benchmark/archive/refs/tags/v1.9.1.tar.gz
                  32131c08ee31eeff2c8968d7e874f3cb648034377dfc32a4c377fa8796d84981)
    rotkv_headers(CLI11 CLI11::CLI11 CLIUtils/CLI11/archive/refs/tags/v2.4.2.tar.gz
                  f2d893a65c3b1324c50d4e682c0cdc021dd0477ae2c048544f39eed6654b699a)
    rotkv_headers(nlohmann_json nlohmann_json::nlohmann_json
                  nlohmann/json/archive/refs/tags/v3.11.3.tar.gz
                  0d8ef5af7f9794e3263480193c491549b2ba6cc74bb018906202ada498a79406)
    rotkv_library(Eigen3 https://gitlab.com/libeigen/eigen/-/archive/3.4.0/eigen-3.4.0.tar.gz
                  8586084f71f9bde545ee7fa6d00288b264a2b7ac3607b974e54d13e7162c1c72
                  SOURCE_SUBDIR Eigen)  # where nothing is to be built
    if(NOT TARGET Eigen3::Eigen)
        add_library(Eigen3::Eigen INTERFACE IMPORTED)
        target_include_directories(Eigen3::Eigen INTERFACE ${eigen3_SOURCE_DIR})
    endif()
    rotkv_library(fmt fmtlib/fmt/archive/refs/tags/10.2.1.tar.gz
                  1250e4cc58bf06ee631567523f48848dc4596133e163f02615c97f78bab6c811)
endif()
if(ROTKV_BUILD_TESTS)
    rotkv_library(Catch2 catchorg/Catch2/archive/refs/tags/v3.7.1.tar.gz
                  c991b247a1a0d7bb9c39aa35faf0fe9e19764213f28ffba3109388e62ee0269c)
    if(catch2_SOURCE_DIR)
        list(APPEND CMAKE_MODULE_PATH ${catch2_SOURCE_DIR}/extras)
    endif()
    if(TARGET Catch2::Catch2WithMain)
        set(catch2_library Catch2::Catch2WithMain)
    else()  # version 2: a header without a main
        set(catch2_library Catch2::Catch2)
        set(catch2_main tests/main.cpp)
    endif()
    include(Catch)  # catch_discover_tests
    find_package(Python3 REQUIRED COMPONENTS Interpreter)
    # pyenv's or conda's interpreter may come first and lack numpy, which the system's has.
    set(rotkv_python ${Python3_EXECUTABLE})
    execute_process(COMMAND ${rotkv_python} -c "import numpy" RESULT_VARIABLE no_numpy
                    OUTPUT_QUIET ERROR_QUIET)
    if(no_numpy AND EXISTS /usr/bin/python3)
        set(rotkv_python /usr/bin/python3)
    endif()
endif()

# Too large to build along: the system has these, or this says what to install. oneDNN's own
# package file asks for OpenCL too, for which there is no use here; hence the plain search.
find_package(OpenMP COMPONENTS CXX)
find_path(DNNL_INCLUDE_DIR dnnl.h)
find_library(DNNL_LIBRARY dnnl)
find_path(PCRE2_INCLUDE_DIR pcre2.h)
find_library(PCRE2_LIBRARY pcre2-8)
set(missing "")
if(NOT OpenMP_CXX_FOUND)
    string(APPEND missing "\n  OpenMP  Debian: part of g++; libomp-dev for clang  Homebrew: libomp")
endif()
if(NOT DNNL_INCLUDE_DIR OR NOT DNNL_LIBRARY)
    string(APPEND missing "\n  oneDNN  Debian: libdnnl-dev   Homebrew: onednn")
endif()
if(NOT PCRE2_INCLUDE_DIR OR NOT PCRE2_LIBRARY)
    string(APPEND missing "\n  PCRE2   Debian: libpcre2-dev  Homebrew: pcre2")
endif()
if(missing)
    message(FATAL_ERROR "This system lacks what rotkv needs. Please install:${missing}\n"
                        "(`./dev build` does so on Debian, Ubuntu and with Homebrew.)")
endif()
foreach(library DNNL PCRE2)
    add_library(${library} INTERFACE)
    target_include_directories(${library} SYSTEM INTERFACE ${${library}_INCLUDE_DIR})
    target_link_libraries(${library} INTERFACE ${${library}_LIBRARY})
endforeach()

# MPI, for tools/ranks.cpp alone.
set(rotkv_mpi OFF)
if(ROTKV_MPI AND ROTKV_BUILD_TOOLS)
    find_package(MPI QUIET COMPONENTS CXX)
    set(rotkv_mpi ${MPI_CXX_FOUND})
    if(NOT rotkv_mpi AND NOT ROTKV_MPI STREQUAL "AUTO")
        message(FATAL_ERROR "ROTKV_MPI is ${ROTKV_MPI}, but no MPI was found. Debian: "
                            "libopenmpi-dev openmpi-bin   Homebrew: open-mpi")
    endif()
endif()

# CUDA and cuBLAS, for cuda/ alone. Its compiler may lie beside the PATH, where NVIDIA's packages
# put it.
set(rotkv_cuda OFF)
if(ROTKV_CUDA)
    include(CheckLanguage)
    find_program(ROTKV_NVCC nvcc PATHS /usr/local/cuda/bin)
    mark_as_advanced(ROTKV_NVCC)
    if(ROTKV_NVCC AND NOT CMAKE_CUDA_COMPILER AND NOT DEFINED ENV{CUDACXX})
        set(ENV{CUDACXX} ${ROTKV_NVCC})
    endif()
    check_language(CUDA)
    if(CMAKE_CUDA_COMPILER)
        if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
            # 90a: with wgmma, for 9.0 alone; later devices compile 90's portable form at start
            set(CMAKE_CUDA_ARCHITECTURES 80 90-virtual 90a-real)
            if(NOT ROTKV_ALL_CUDA_TARGETS)
                set(CMAKE_CUDA_ARCHITECTURES 80-virtual 90a-real)
            endif()
        endif()
        enable_language(CUDA)
        find_package(CUDAToolkit)
        if(CMAKE_CUDA_COMPILER_VERSION VERSION_GREATER_EQUAL 12.4 AND TARGET CUDA::cublas)
            set(rotkv_cuda ON)  # 12 is the first to know C++20, 12.4 __maxnreg__
        else()
            message(STATUS "cuda/ is left out: it needs CUDA 12.4 or later with cuBLAS")
        endif()
    endif()
    if(NOT rotkv_cuda AND NOT ROTKV_CUDA STREQUAL "AUTO")
        message(FATAL_ERROR "ROTKV_CUDA is ${ROTKV_CUDA}, but no CUDA compiler of version 12.4 "
                            "or later, or no cuBLAS beside it, was found. CUDACXX names a compiler.")
    endif()
endif()
