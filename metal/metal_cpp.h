#pragma once
// The interface to Metal that the host is written against: Apple's metal-cpp, or the part of it
// that the emulation plays on any CPU, under the same names. The only file that knows which.
// Docs: docs/22-metal.md

#ifdef ROTKV_METAL_CPP
#include <Foundation/Foundation.hpp>
#include <Metal/Metal.hpp>
#else
#include "metal/emul/metal_cpp.h"
#endif
