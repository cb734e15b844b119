#include "metal/emul/fiber.h"

#include "metal/emul/lanes.h"

#include <algorithm>
#include <cstdint>

#ifndef ROTKV_EMUL_THREADS  // threads need no fibers

#if defined(__SANITIZE_ADDRESS__)
#define ROTKV_TELLS_ASAN
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define ROTKV_TELLS_ASAN
#endif
#endif
#ifdef ROTKV_TELLS_ASAN
#include <sanitizer/common_interface_defs.h>
#endif

// What a called function must keep is pushed, the stack changed, and what was pushed there popped.
#if (defined(__x86_64__) || defined(__aarch64__)) && !defined(ROTKV_EMUL_UCONTEXT)
#define ROTKV_EMUL_ASSEMBLER
extern "C" void rotkv_emul_change(void** from, void* to) asm("rotkv_emul_change");  // this file's
#ifdef __x86_64__
constexpr int k_kept = 6, k_return = 6;  // words: registers that are pushed, where the address lies
asm(R"(
    .text
rotkv_emul_change:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
)");
#else
constexpr int k_kept = 20, k_return = 11;  // x19 to x30, d8 to d15; x30 is the address
asm(R"(
    .text
    .p2align 2
rotkv_emul_change:
    sub sp, sp, #160
    stp x19, x20, [sp]
    stp x21, x22, [sp, #16]
    stp x23, x24, [sp, #32]
    stp x25, x26, [sp, #48]
    stp x27, x28, [sp, #64]
    stp x29, x30, [sp, #80]
    stp d8, d9, [sp, #96]
    stp d10, d11, [sp, #112]
    stp d12, d13, [sp, #128]
    stp d14, d15, [sp, #144]
    mov x9, sp
    str x9, [x0]
    mov sp, x1
    ldp x19, x20, [sp]
    ldp x21, x22, [sp, #16]
    ldp x23, x24, [sp, #32]
    ldp x25, x26, [sp, #48]
    ldp x27, x28, [sp, #64]
    ldp x29, x30, [sp, #80]
    ldp d8, d9, [sp, #96]
    ldp d10, d11, [sp, #112]
    ldp d12, d13, [sp, #128]
    ldp d14, d15, [sp, #144]
    add sp, sp, #160
    ret
)");
#endif
#else
#include <ucontext.h>

#include <map>
#include <memory>
#endif

namespace rotkv::metal::emul {

#ifdef ROTKV_EMUL_ASSEMBLER

void Fiber::prepare(std::byte* stack, std::size_t bytes, void (*entry)()) {
    stack_ = stack;
    bytes_ = bytes;
    // What would have been pushed, and two words more: x86-64's `ret` takes the address from the
    // first of them, and leaves the stack 8 bytes off a multiple of 16, as a call does.
    uintptr_t* top = reinterpret_cast<uintptr_t*>(stack + bytes) - 2 - k_kept;
    std::fill_n(top, k_kept + 2, uintptr_t(0));
    top[k_return] = reinterpret_cast<uintptr_t>(entry);
    stack_pointer_ = top;
}

static void change_stacks(void** from, void* to) { rotkv_emul_change(from, to); }

#else

// Elsewhere the C library does it, with two system calls a change.
void Fiber::prepare(std::byte* stack, std::size_t bytes, void (*entry)()) {
    stack_ = stack;
    bytes_ = bytes;
    static thread_local std::map<std::byte*, std::unique_ptr<ucontext_t> > contexts;
    std::unique_ptr<ucontext_t>& context = contexts[stack];
    if (context == nullptr) context = std::make_unique<ucontext_t>();
    getcontext(context.get());
    context->uc_stack.ss_sp = stack;
    context->uc_stack.ss_size = bytes;
    context->uc_link = nullptr;
    makecontext(context.get(), entry, 0);
    stack_pointer_ = context.get();
}

static void change_stacks(void** from, void* to) {
    ucontext_t here, *const there = static_cast<ucontext_t*>(to);
    if (*from == nullptr) *from = &here;  // the first of all: its context lies on its own stack
    ucontext_t* const mine = static_cast<ucontext_t*>(*from);
    swapcontext(mine, there);
    if (*from == &here) *from = nullptr;
}

#endif

#ifdef ROTKV_TELLS_ASAN

static thread_local Fiber* k_left = nullptr;  // the one that was stopped for the one that runs

// The stack that was left is known now, also that of the thread itself.
void Fiber::arrived(void* shadow) {
    const void* stack = nullptr;
    std::size_t bytes = 0;
    __sanitizer_finish_switch_fiber(shadow, &stack, &bytes);
    k_left->stack_ = stack;
    k_left->bytes_ = bytes;
}

void Fiber::change(Fiber& from, Fiber& to) {
    k_left = &from;
    void* shadow = nullptr;
    __sanitizer_start_switch_fiber(&shadow, to.stack_, to.bytes_);
    change_stacks(&from.stack_pointer_, to.stack_pointer_);
    arrived(shadow);
}

void Fiber::begun() { arrived(nullptr); }

#else

void Fiber::change(Fiber& from, Fiber& to) {
    change_stacks(&from.stack_pointer_, to.stack_pointer_);
}

void Fiber::begun() {}

#endif

}  // namespace rotkv::metal::emul

#endif
