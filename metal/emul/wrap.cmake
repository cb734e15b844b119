# cmake -DFILE=metal/x.metal -DROOT=... -DOUT=... -P wrap.cmake: a C++ file that holds a .metal file as
# it is, twice, as code and as the text that says where its arguments come from.
file(READ ${ROOT}/${FILE} text)
get_filename_component(name ${FILE} NAME_WE)
string(REGEX MATCHALL "\nkernel void [a-z0-9_]+" plain "${text}")
list(TRANSFORM plain REPLACE "\nkernel void " "")
set(kernels "")
foreach(one ${plain})
    string(APPEND kernels "    add_kernel(kernels, \"${one}\", \"${one}\", ::${one});\n")
endforeach()
file(WRITE ${OUT} "// Written from ${FILE}
#include \"metal/emul/kernel.h\"
#include \"metal/emul/metal_stdlib\"

namespace {  // each file by itself, as it is for Metal

std::vector<rotkv::metal::emul::Kernel> k_kernels;

#include \"${FILE}\"

}  // namespace

namespace rotkv::metal::emul {

KernelFile kernel_file_${name}() {
    std::vector<Kernel> kernels = k_kernels;
${kernels}    return {\"${FILE}\", R\"kernels(${text})kernels\", kernels};
}

}  // namespace rotkv::metal::emul
")
