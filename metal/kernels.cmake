# The room metal: the host's C++, and the kernels of *.metal. On macOS Apple's compiler makes a library
# of them, which the host loads by its path, and the host needs the headers of metal-cpp; elsewhere
# kernels are C++, and metal/emul/ plays the device.
file(GLOB kernels RELATIVE ${PROJECT_SOURCE_DIR} CONFIGURE_DEPENDS metal/*.metal)
file(GLOB pieces CONFIGURE_DEPENDS metal/*.msl)

# A .metal file as a C++ file, whose name goes to `out`.
function(rotkv_emulated file out)
    get_filename_component(name ${file} NAME_WE)
    set(wrapped ${PROJECT_BINARY_DIR}/metal-emul/${name}.cpp)
    add_custom_command(OUTPUT ${wrapped} DEPENDS ${file} metal/emul/wrap.cmake
        COMMAND ${CMAKE_COMMAND} -DFILE=${file} -DROOT=${PROJECT_SOURCE_DIR} -DOUT=${wrapped}
                -P ${PROJECT_SOURCE_DIR}/metal/emul/wrap.cmake
        COMMENT "${file} as C++" VERBATIM)
    # Scalar and as written, like ref. What Metal allows in silence is no warning: numbers that lose
    # bits, attributes that C++ does not know.
    set_source_files_properties(${wrapped} PROPERTIES COMPILE_OPTIONS
        "-I${PROJECT_SOURCE_DIR}/metal/emul;-O2;-fno-tree-vectorize;-fno-tree-slp-vectorize;-Wno-conversion;-Wno-sign-compare;-Wno-attributes;-Wno-ignored-attributes;$<$<CXX_COMPILER_ID:GNU>:-Wno-volatile>;$<$<CXX_COMPILER_ID:Clang,AppleClang>:-Wno-unknown-attributes>;$<$<CXX_COMPILER_ID:Clang,AppleClang>:-Wno-deprecated-volatile>")
    set(${out} ${wrapped} PARENT_SCOPE)
endfunction()

# The kernels as C++, and the list of their files, into `target`, which calls itself "metal-emul".
function(rotkv_emulates target)
    set(listed_in ${PROJECT_BINARY_DIR}/metal-emul/kernel_files.cpp)
    foreach(kernel ${kernels})
        rotkv_emulated(${kernel} wrapped)
        get_filename_component(name ${kernel} NAME_WE)
        list(APPEND sources ${wrapped})
        string(APPEND declared "KernelFile kernel_file_${name}();\n")
        string(APPEND listed "kernel_file_${name}, ")
    endforeach()
    file(CONFIGURE OUTPUT ${listed_in} CONTENT "// Written by metal/kernels.cmake
#include \"metal/emul/kernel.h\"
namespace rotkv::metal::emul {
${declared}std::vector<KernelFile (*)()> kernel_files();
std::vector<KernelFile (*)()> kernel_files() { return {${listed}}; }
}  // namespace rotkv::metal::emul
" @ONLY)
    find_package(Threads REQUIRED)
    target_sources(${target} PRIVATE ${sources} ${listed_in})
    target_compile_definitions(${target} PRIVATE ROTKV_METAL_NAME="metal-emul" ROTKV_METALLIB="here")
    target_link_libraries(${target} PUBLIC rotkv::ref PRIVATE Threads::Threads)
endfunction()

# Both in one program, for the test that they agree: the emulation takes other names.
option(ROTKV_METAL_TWICE "Build the emulation of Metal once more, for the test that both agree" ${APPLE})
function(rotkv_metal_beside)
    if(NOT ROTKV_METAL_TWICE OR NOT ROTKV_BUILD_TESTS)
        return()
    endif()
    file(GLOB sources CONFIGURE_DEPENDS metal/*.cpp metal/emul/*.cpp)
    add_library(rotkv-metal-beside STATIC ${sources})
    rotkv_emulates(rotkv-metal-beside)
    add_dependencies(rotkv-metal-beside rotkv-metal)  # one of them makes C++ of the kernels
    target_compile_definitions(rotkv-metal-beside PRIVATE
        metal=metal_beside NS=NS_beside MTL=MTL_beside make_metal_backend=make_metal_backend_beside)
endfunction()

if(APPLE)
    find_path(METAL_CPP_INCLUDE_DIR Metal/Metal.hpp HINTS ENV METAL_CPP_INCLUDE_DIR)
    if(NOT METAL_CPP_INCLUDE_DIR)  # tools/backends.cpp says so
        add_library(rotkv-metal INTERFACE)
        add_library(rotkv::metal ALIAS rotkv-metal)
        return()
    endif()
    file(GLOB emulation RELATIVE ${PROJECT_SOURCE_DIR} metal/emul/*.cpp)
    rotkv_room(metal ${emulation})
    # Products and sums round as written: no fast math, no contraction.
    set(metal_flags -std=metal3.0 -O2 -fno-fast-math -ffp-contract=off -I ${PROJECT_SOURCE_DIR})
    set(library ${PROJECT_BINARY_DIR}/rotkv.metallib)
    foreach(kernel ${kernels})
        get_filename_component(name ${kernel} NAME_WE)
        add_custom_command(OUTPUT ${name}.air DEPENDS ${kernel} ${pieces} metal/args.h
            COMMAND xcrun -sdk macosx metal ${metal_flags} -c ${PROJECT_SOURCE_DIR}/${kernel} -o ${name}.air)
        list(APPEND objects ${name}.air)
    endforeach()
    add_custom_command(OUTPUT ${library} DEPENDS ${objects}
        COMMAND xcrun -sdk macosx metallib ${objects} -o ${library})
    add_custom_target(rotkv-metallib DEPENDS ${library})
    add_dependencies(rotkv-metal rotkv-metallib)
    target_include_directories(rotkv-metal SYSTEM PRIVATE ${METAL_CPP_INCLUDE_DIR})
    target_compile_definitions(rotkv-metal INTERFACE ROTKV_HAS_METAL
        PRIVATE ROTKV_METAL_CPP ROTKV_METAL_NAME="metal" ROTKV_METALLIB="${library}")
    target_link_libraries(rotkv-metal PUBLIC rotkv::ref
        PRIVATE "-framework Foundation" "-framework Metal"
        "-framework CoreGraphics")  # without it a command-line program is given no device
    rotkv_metal_beside()
    return()
endif()

rotkv_room(metal)
rotkv_emulates(rotkv-metal)
target_compile_definitions(rotkv-metal INTERFACE ROTKV_EMULATES_METAL)
rotkv_metal_beside()
