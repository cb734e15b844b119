"""torch_attention.py: PyTorch's attention in the shapes of docs/performance.md, on the GPU of this machine.

    python3 tests/torch_attention.py

scaled_dot_product_attention over f16 K and V, 32 query and 8 KV heads of 128, without a mask, by FlashAttention and by
cuDNN, as torch names its backends; microseconds, medians of 15. Like rotkv-bench-ops: every call has inputs of its own,
more of them than the L2 cache holds; one call of each is recorded, they are replayed together, and the time between events
around them is divided by their number. rotkv-bench-ops beside it, in the same minute, makes ratios.
"""
import statistics
import sys

SHAPES = [(1, 1, 4096), (1, 1, 16384), (1, 1, 32768), (1, 1, 131072)]
SHAPES += [(1, t, 32768) for t in (2, 4, 8, 16, 32, 64, 128)]
SHAPES += [(32, 1, 4096), (8, 8, 4096), (1, 512, 4096), (1, 512, 16384), (1, 512, 32768)]
HEADS, KV_HEADS, D = 32, 8, 128
L2_BYTES = 128 << 20


def microseconds(torch, attend, inputs):
    """attend(q, k, v), of each of `inputs` in turn: once to warm up, then recorded."""
    for one in inputs:
        attend(*one)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for one in inputs:
            attend(*one)
    times = []
    for _ in range(16):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) * 1000 / len(inputs))
    return statistics.median(times[1:])


def inputs_of(torch, streams, tokens, cells):
    def tensor(heads, rows):
        return torch.randn(streams, heads, rows, D, dtype=torch.float16, device="cuda")

    bytes_of_one = 2 * 2 * streams * KV_HEADS * cells * D
    copies = max(2, min(64, 2 * L2_BYTES // bytes_of_one))
    return [(tensor(HEADS, tokens), tensor(KV_HEADS, cells), tensor(KV_HEADS, cells)) for _ in range(copies)]


def main():
    try:
        import torch
        from torch.nn.attention import SDPBackend, sdpa_kernel
    except ImportError as error:
        sys.exit(f"torch_attention.py: {error}")
    if not torch.cuda.is_available():
        sys.exit("torch_attention.py: no GPU")
    print(f"torch {torch.__version__}, cuDNN {torch.backends.cudnn.version()}, {torch.cuda.get_device_name()}")
    print("| streams x tokens | cells | FlashAttention | cuDNN |\n|---|---|---|---|")
    for streams, tokens, cells in SHAPES:
        inputs = inputs_of(torch, streams, tokens, cells)
        row = []
        for backend in (SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION):
            def attend(q, k, v):
                return torch.nn.functional.scaled_dot_product_attention(q, k, v, enable_gqa=True)

            with sdpa_kernel(backend):
                row.append(microseconds(torch, attend, inputs))
        print(f"| {streams} x {tokens} | {cells} | {row[0]:.1f} | {row[1]:.1f} |", flush=True)


if __name__ == "__main__":
    main()
