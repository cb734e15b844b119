#pragma once
// The operations of the backend "cuda", one function per struct of ops.h, each in the file of its
// stem with the name it has in ref. Arguments have passed check() and supports(). A function
// launches its kernel on the stream and returns; results are there after a download or synchronize.
// Docs: docs/08-backends.md

#include "ref/ops.h"

struct CUstream_st;  // a cudaStream_t points to it: whoever includes this needs no CUDA headers

namespace rotkv::cuda {

using Stream = CUstream_st*;

void hadamard(const HadamardArgs& args, Stream stream);      // hadamard.cu
void quantize(const QuantizeArgs& args, Stream stream);      // quant.cu
void dequantize(const DequantizeArgs& args, Stream stream);  // quant.cu
void rope(const RopeArgs& args, Stream stream);              // rope.cu
void add(const AddArgs& args, Stream stream);                // norm.cu
void embed(const EmbedArgs& args, Stream stream);            // quant.cu
void kv_store(const KvStoreArgs& args, Stream stream);       // kv_cache.cu
void kv_shift(const KvShiftArgs& args, Stream stream);       // kv_cache.cu

/// The largest rotation block: 1024 channels are 32 registers of each lane of a warp.
inline constexpr int64_t k_largest_block = 1024;

/// A row that kv_shift keeps in the shared memory of a block of threads has at most so many
/// channels (48 KiB, which every device grants without being asked).
inline constexpr int64_t k_largest_row = 12288;

}  // namespace rotkv::cuda
