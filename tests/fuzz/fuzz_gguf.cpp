// Any bytes as a GGUF file: parsed or refused with an Error, and so are the vocabulary and the
// hyper-parameters that the file describes. Allocations have a limit where the target runs.
#include "ref/error.h"
#include "ref/files/gguf.h"
#include "ref/model.h"
#include "ref/text/tokenizer.h"

#include <cstring>
#include <span>
#include <stdexcept>
#include <vector>

using namespace rotkv;

// Reads the first and the last byte of every tensor: a view that leaves the file is a crash.
static void touch(const GgufTensor& tensor, std::span<const std::byte> data) {
    if (describe_type(tensor).empty()) throw std::logic_error("a type without a description");
    if (tensor.readable) {
        if (span_bytes(tensor.view) != int64_t(data.size()) || tensor.view.data != data.data())
            throw std::logic_error("a view of other bytes than the tensor's");
    }
    if (data.empty()) return;
    volatile std::byte seen = data.front();
    seen = data.back();
    static_cast<void>(seen);
}

static void touch(const GgufFile& file) {
    for (const GgufTensor& tensor : file.tensors()) {
        touch(tensor, file.data(tensor));
        if (file.find_listed(tensor.name) != &tensor)
            throw std::logic_error("a name finds another tensor");
        try {
            if (file.find_tensor(tensor.name)->view.data == nullptr)
                throw std::logic_error("a weight without data");
        } catch (const Error&) {
            if (tensor.readable && !tensor.empty()) throw;
        }
    }
    for (const GgufEntry& entry : file.metadata()) {
        if (describe(entry.value).empty()) throw std::logic_error("a value without a description");
    }
}

template <class Read>
static void reads_or_refuses(const Read& read) {
    try {
        read();
    } catch (const Error&) {
    }
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    std::vector<uint64_t> aligned((size + 7) / 8);  // parse() asks for 8
    if (size > 0) std::memcpy(aligned.data(), data, size);
    const auto bytes = std::as_bytes(std::span(aligned)).first(size);
    reads_or_refuses([&] {
        const GgufFile file = GgufFile::parse(bytes, "input", GgufParts::taken);
        touch(file);
        reads_or_refuses([&] { read_config(file, 4096, true); });
        reads_or_refuses([&] { Tokenizer::from_gguf(file); });
    });
    return 0;
}
