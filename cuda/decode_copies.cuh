#pragma once
// How cells come into shared memory: a lane looks after a row, which is a cell's heads of a band on
// one side of the cache. Lanes 0 .. 15 have the K of a tile's 16 cells, lanes 16 .. 31 the V, and
// each warp of a slice every band-th of them.
//
//   9.0 on   one instruction copies a row, and a barrier in shared memory counts its bytes; nobody
//            computes addresses of its pieces, and loads of shared memory do not queue behind them
//   8.0      the warp copies row after row, 16 bytes a lane
//
// Docs: docs/05-attention.md

#include "cuda/attention.cuh"
#include "cuda/copies.cuh"

namespace rotkv::cuda::decode {

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
#define ROTKV_BULK_COPIES 1
#else
#define ROTKV_BULK_COPIES 0
#endif

/// A barrier in shared memory that counts the bytes of copies: `arrivals` times somebody has to say
/// how many are to come.
class CopyBarrier {
  public:
    explicit __device__ CopyBarrier(uint64_t* memory) : address_(shared_address(memory)) {}

    __device__ void create(uint32_t arrivals) const {
        asm volatile("mbarrier.init.shared.b64 [%0], %1;" : : "r"(address_), "r"(arrivals));
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    __device__ void expect(uint32_t bytes) const {
        asm volatile("mbarrier.arrive.expect_tx.shared.b64 _, [%0], %1;"
                     :
                     : "r"(address_), "r"(bytes)
                     : "memory");
    }
    /// 16 bytes or a multiple, on 16 bytes on both sides.
    __device__ void copy(std::byte* dst, const std::byte* src, uint32_t bytes) const {
        asm volatile(
            "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes "
            "[%0], [%1], %2, [%3];"
            :
            : "r"(shared_address(dst)), "l"(src), "r"(bytes), "r"(address_)
            : "memory");
    }
    /// Until all bytes are there, for the first, second ... time: parity 0, 1, 0 ...
    __device__ void wait(uint32_t parity) const {
        uint32_t done = 0;
        while (done == 0) {
            asm volatile(
                "{\n"
                ".reg .pred there;\n"
                "mbarrier.try_wait.parity.shared.b64 there, [%1], %2;\n"
                "selp.u32 %0, 1, 0, there;\n"
                "}"
                : "=r"(done)
                : "r"(address_), "r"(parity)
                : "memory");
        }
    }

  private:
    uint32_t address_;
};

/// The copies into the stages of a ring.
class Copies {
  public:
    /// All threads of the block: barriers[rings][stages], of which `ring` is this thread's, each
    /// for `warps` warps that copy.
    __device__ Copies(uint64_t* barriers, uint32_t rings, uint32_t ring, uint32_t stages,
                      uint32_t warps)
        : barriers_(barriers + ring * stages) {
#if ROTKV_BULK_COPIES
        if (threadIdx.x < rings * stages) CopyBarrier(barriers + threadIdx.x).create(warps);
        __syncthreads();
#endif
    }

    /// One row of each lane that has one, 16 bytes or a multiple, on 16 bytes on both sides. Every
    /// warp asks once a stage and round.
    __device__ void ask(uint32_t stage, bool has_row, std::byte* dst, const std::byte* src,
                        uint32_t bytes) const {
#if ROTKV_BULK_COPIES
        const CopyBarrier barrier(barriers_ + stage);
        const uint32_t all = __reduce_add_sync(k_all_lanes, has_row ? bytes : 0);
        if (lane_of_warp() == 0) barrier.expect(all);
        if (has_row) barrier.copy(dst, src, bytes);
#else
        for (uint32_t on = __ballot_sync(k_all_lanes, has_row); on != 0; on &= on - 1) {
            const int lane = __ffs(int(on)) - 1;
            const uint64_t to = __shfl_sync(k_all_lanes, reinterpret_cast<uint64_t>(dst), lane);
            const uint64_t from = __shfl_sync(k_all_lanes, reinterpret_cast<uint64_t>(src), lane);
            const uint32_t count = __shfl_sync(k_all_lanes, bytes, lane);
            for (uint32_t i = lane_of_warp() * 16; i < count; i += k_warp * 16) {
                copy_16(shared_address(reinterpret_cast<std::byte*>(to) + i),
                        reinterpret_cast<const std::byte*>(from) + i, true);
            }
        }
        close_group();
#endif
    }

    /// The same rows into L2 only, where every write to them meets them: allowed at any time.
    static __device__ void prefetch(bool has_row, const std::byte* src, uint32_t bytes) {
#if ROTKV_BULK_COPIES
        if (!has_row) return;
        asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" : : "l"(src), "r"(bytes));
#endif
    }

    /// Until a stage is there: the barrier's parity in this round, stages under way after it.
    template <int under_way>
    __device__ void wait(uint32_t stage, uint32_t parity) const {
#if ROTKV_BULK_COPIES
        CopyBarrier(barriers_ + stage).wait(parity);
#else
        wait_for_groups<under_way>();
#endif
    }

  private:
    uint64_t* barriers_;
};

}  // namespace rotkv::cuda::decode
