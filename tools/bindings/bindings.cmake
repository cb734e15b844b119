# librotkv, the C ABI: its objects (for tests and for Python too), the shared library, an example,
# and what `cmake --install` lays down.
enable_language(C)
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

file(GLOB sources RELATIVE ${PROJECT_SOURCE_DIR} CONFIGURE_DEPENDS tools/bindings/*.cpp)
list(FILTER sources EXCLUDE REGEX "/python_")
add_library(rotkv-bindings OBJECT ${sources})
set_target_properties(rotkv-bindings PROPERTIES POSITION_INDEPENDENT_CODE ON
                      CXX_VISIBILITY_PRESET hidden VISIBILITY_INLINES_HIDDEN ON)
target_link_libraries(rotkv-bindings PUBLIC rotkv::tools)

# What is exported is what the headers declare, each function on the line of its ROTKV_API.
file(GLOB headers RELATIVE ${PROJECT_SOURCE_DIR} CONFIGURE_DEPENDS tools/bindings/rotkv*.h)
set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${headers})
foreach(header ${headers})
    file(STRINGS ${header} lines REGEX "^ROTKV_API ")
    foreach(line ${lines})
        string(REGEX MATCH "rotkv_[a-z0-9_]+[(]" name "${line}")
        string(REPLACE "(" "" name "${name}")
        string(APPEND symbols "${name}; ")
        string(APPEND symbols_of_apple "_${name}\n")
    endforeach()
endforeach()
set(exported ${PROJECT_BINARY_DIR}/rotkv.map)
if(APPLE)
    file(CONFIGURE OUTPUT ${exported} CONTENT "${symbols_of_apple}")
else()
    file(CONFIGURE OUTPUT ${exported} CONTENT "{ global: ${symbols}local: *; };\n")
endif()
add_library(rotkv-shared SHARED $<TARGET_OBJECTS:rotkv-bindings>)
set_target_properties(rotkv-shared PROPERTIES OUTPUT_NAME rotkv EXPORT_NAME rotkv
                      VERSION ${PROJECT_VERSION} SOVERSION ${PROJECT_VERSION_MAJOR}
                      LINKER_LANGUAGE CXX LINK_DEPENDS ${exported})
target_link_libraries(rotkv-shared PRIVATE rotkv::tools)
if(APPLE)
    target_link_options(rotkv-shared PRIVATE "LINKER:-exported_symbols_list,${exported}")
else()
    target_link_options(rotkv-shared PRIVATE "LINKER:--version-script=${exported}")
endif()
target_include_directories(rotkv-shared INTERFACE
    $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/tools/bindings>
    $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)  # as <rotkv.h>, here and there

add_executable(rotkv-example tools/bindings/example.c)
set_target_properties(rotkv-example PROPERTIES C_STANDARD 11 C_STANDARD_REQUIRED ON C_EXTENSIONS OFF
                      LINKER_LANGUAGE CXX)  # of a sanitizer's build, say
target_compile_options(rotkv-example PRIVATE -Wall -Wextra -pedantic -Werror)
target_link_libraries(rotkv-example PRIVATE rotkv-shared $<$<NOT:$<BOOL:${WIN32}>>:m>)

install(TARGETS rotkv-shared EXPORT rotkv-targets COMPONENT rotkv)
install(FILES ${headers} DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} COMPONENT rotkv)
set(package ${CMAKE_INSTALL_LIBDIR}/cmake/rotkv)
install(EXPORT rotkv-targets NAMESPACE rotkv:: FILE rotkv-config.cmake DESTINATION ${package}
        COMPONENT rotkv)
write_basic_package_version_file(${PROJECT_BINARY_DIR}/rotkv-config-version.cmake
                                 COMPATIBILITY SameMinorVersion)
file(RELATIVE_PATH to_prefix /${CMAKE_INSTALL_LIBDIR}/pkgconfig /)
string(REGEX REPLACE "/$" "" to_prefix "${to_prefix}")
file(CONFIGURE OUTPUT rotkv.pc @ONLY CONTENT [[
prefix=${pcfiledir}/@to_prefix@
libdir=${prefix}/@CMAKE_INSTALL_LIBDIR@
includedir=${prefix}/@CMAKE_INSTALL_INCLUDEDIR@

Name: rotkv
Description: rotated, quantized KV caches: operations, models, figures
Version: @PROJECT_VERSION@
Libs: -L${libdir} -lrotkv
Cflags: -I${includedir}
]])
install(FILES ${PROJECT_BINARY_DIR}/rotkv-config-version.cmake DESTINATION ${package}
        COMPONENT rotkv)
install(FILES ${PROJECT_BINARY_DIR}/rotkv.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig
        COMPONENT rotkv)
