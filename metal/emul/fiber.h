#pragma once
// A fiber: a stack of its own and a place to go on from. Changing fibers is a function call that
// returns somewhere else; no system call, some ten instructions.
// Docs: docs/22-metal.md

#include <cstddef>

namespace rotkv::metal::emul {

class Fiber {
  public:
    Fiber() = default;

    /// Begins at entry(), which never returns, when it is first switched to.
    /// stack: memory that nothing else uses, its size a multiple of 16.
    void prepare(std::byte* stack, std::size_t bytes, void (*entry)());

    /// Stops here and goes on where `to` stopped. Returns when somebody switches back.
    static void change(Fiber& from, Fiber& to);

    /// To be called first in entry().
    static void begun();

  private:
    static void arrived(void* shadow);

    void* stack_pointer_ = nullptr;
    const void* stack_ = nullptr;  ///< for AddressSanitizer, which is told of every change
    std::size_t bytes_ = 0;
};

}  // namespace rotkv::metal::emul
