// metal-cpp is headers alone; one file of the program holds what they declare.
#ifdef ROTKV_METAL_CPP
#define NS_PRIVATE_IMPLEMENTATION
#define MTL_PRIVATE_IMPLEMENTATION
#endif
#include "metal/metal_cpp.h"
