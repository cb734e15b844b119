# The Python package `rotkv`, by nanobind: build/NAME/python/rotkv, which is what is installed.
set(rotkv_python_built OFF)
if(NOT ROTKV_PYTHON)
    return()
endif()
if(rotkv_python AND NOT Python_EXECUTABLE)
    set(Python_EXECUTABLE ${rotkv_python})  # the one that has numpy
endif()
find_package(Python 3.10 QUIET COMPONENTS Interpreter Development.Module)
if(Python_FOUND)
    execute_process(COMMAND ${CMAKE_COMMAND} -E env "PYTHONPATH=${ROTKV_PYTHON_PACKAGES}"
                            ${Python_EXECUTABLE} -m nanobind --cmake_dir
                    OUTPUT_VARIABLE nanobind_DIR OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
    find_package(nanobind CONFIG QUIET)
endif()
if(NOT nanobind_FOUND)
    if(NOT ROTKV_PYTHON STREQUAL "AUTO")
        message(FATAL_ERROR "ROTKV_PYTHON is ${ROTKV_PYTHON}, but Python's headers or nanobind are "
                            "missing. Debian: python3-dev   pip: nanobind")
    endif()
    message(STATUS "the Python package is left out: no headers of Python's, or no nanobind")
    return()
endif()
set(rotkv_python_built ON)

set(folder ${PROJECT_BINARY_DIR}/python/rotkv)
file(GLOB sources RELATIVE ${PROJECT_SOURCE_DIR} CONFIGURE_DEPENDS tools/bindings/python_*.cpp)
nanobind_add_module(_rotkv NB_STATIC NOMINSIZE ${sources} $<TARGET_OBJECTS:rotkv-bindings>)
foreach(target nanobind-static nanobind)
    if(TARGET ${target})
        target_compile_options(${target} PRIVATE -w)  # not ours
    endif()
endforeach()
set_target_properties(_rotkv PROPERTIES LIBRARY_OUTPUT_DIRECTORY ${folder})
target_link_libraries(_rotkv PRIVATE rotkv::tools)
configure_file(tools/bindings/package.py ${folder}/__init__.py COPYONLY)
configure_file(tools/bindings/programs.py ${folder}/programs.py COPYONLY)
configure_file(tools/whole_file.py ${folder}/whole_file.py COPYONLY)
file(TOUCH ${folder}/py.typed)
nanobind_add_stub(rotkv-stub MODULE _rotkv OUTPUT ${folder}/_rotkv.pyi PYTHON_PATH ${folder}
                  DEPENDS _rotkv)
# rotkv.eval, rotkv.judge, and each as a program beside the others, which finds its package from where
# it lies.
foreach(program ${rotkv_python_programs})
    file(GLOB files RELATIVE ${PROJECT_SOURCE_DIR}/tools/${program} CONFIGURE_DEPENDS
         tools/${program}/*.py)
    foreach(file ${files})
        configure_file(tools/${program}/${file} ${folder}/${program}/${file} COPYONLY)
    endforeach()
    file(CONFIGURE OUTPUT rotkv-${program} @ONLY CONTENT [[#!/bin/sh
PYTHONPATH="$(dirname "$0")/python${PYTHONPATH:+:$PYTHONPATH}" exec "${ROTKV_PYTHON:-@Python_EXECUTABLE@}" -m rotkv.@program@ "$@"
]])
    file(CHMOD ${PROJECT_BINARY_DIR}/rotkv-${program} PERMISSIONS OWNER_READ OWNER_WRITE OWNER_EXECUTE
         GROUP_READ GROUP_EXECUTE WORLD_READ WORLD_EXECUTE)
    install(DIRECTORY ${folder}/${program} DESTINATION rotkv COMPONENT python EXCLUDE_FROM_ALL
            FILES_MATCHING PATTERN "*.py")
endforeach()
install(TARGETS _rotkv LIBRARY DESTINATION rotkv COMPONENT python EXCLUDE_FROM_ALL)
install(FILES ${folder}/__init__.py ${folder}/programs.py ${folder}/whole_file.py ${folder}/_rotkv.pyi
              ${folder}/py.typed DESTINATION rotkv COMPONENT python EXCLUDE_FROM_ALL)
