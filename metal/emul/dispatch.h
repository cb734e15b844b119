#pragma once
// One dispatch of a kernel: what is bound to its arguments, whether Metal would take it, and its
// run. Docs: docs/22-metal.md

#include "metal/emul/kernel.h"
#include "metal/emul/metal_cpp.h"

#include <cstddef>
#include <map>
#include <memory>
#include <vector>

namespace MTL {

/// The limits are those of Apple's feature set tables for the families of M1 and later, and what
/// the documentation of each call says.
struct Dispatch {
    struct Bound {
        std::shared_ptr<Buffer> buffer;  ///< kept until the work is done; or
        std::vector<std::byte> bytes;    ///< a copy of what setBytes was given
        NS::UInteger offset = 0;

        std::byte* data();
        NS::UInteger length() const;
    };

    const rotkv::metal::emul::Kernel* kernel = nullptr;
    std::map<NS::UInteger, Bound> bound;          ///< by index
    std::map<NS::UInteger, NS::UInteger> memory;  ///< of the threadgroup, bytes by index
    rotkv::metal::emul::Extent groups, threads;

    // All throw Misuse.
    void set_buffer(const Buffer* buffer, NS::UInteger offset, NS::UInteger index);
    void set_bytes(const void* data, NS::UInteger length, NS::UInteger index);
    void set_memory(NS::UInteger length, NS::UInteger index);

    /// Can the kernel run on this grid with what is bound? Keeps the grid.
    void check(Size groups_per_grid, Size threads_per_group);

    /// Throws Fault with the kernel's name.
    void run();

  private:
    void check_argument(const rotkv::metal::emul::Parameter& parameter);
    void check_memory();
};

}  // namespace MTL
