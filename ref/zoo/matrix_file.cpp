// Rotation matrices from an .npy file.
//   char[8]  "\x93NUMPY", u8 major, u8 minor
//   u16 or, from major 2 on, u32   bytes of the header that follows
//   text     {'descr': '<f4', 'fortran_order': False, 'shape': (30, 3, 64, 64), }
//   numbers  to the end of the file
// Source: numpy's description of its format, NEP 1.
#include "ref/error.h"
#include "ref/zoo/matrices.h"

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <utility>

namespace rotkv::zoo {

namespace {

// A whole file, and where in it one has read.
struct Bytes {
    std::string path, all;
    size_t at = 0;

    [[noreturn]] void refuse(const std::string& expected) const {
        throw Error(ErrorCode::bad_file, path + ": expected " + expected);
    }
    std::string take(size_t count, const char* what) {
        if (all.size() - at < count) refuse(std::string(what) + ", found the end of the file");
        at += count;
        return all.substr(at - count, count);
    }
};

Bytes read_file(const std::string& path) {
    if (!std::filesystem::is_regular_file(path)) {  // a device has no end
        throw Error(ErrorCode::io, path + ": cannot be read");
    }
    std::ifstream file(path, std::ios::binary);
    Bytes bytes{.path = path, .all = {}};
    for (char part[65536]; file.read(part, sizeof part) || file.gcount() > 0;) {
        bytes.all.append(part, size_t(file.gcount()));
    }
    if (file.eof()) return bytes;
    throw Error(ErrorCode::io, path + ": cannot be read");
}

struct Header {
    bool is_f64 = false;
    std::vector<int64_t> shape;
};

// What stands behind 'key': in the header's dictionary.
std::string value_of(const Bytes& bytes, const std::string& header, const std::string& key) {
    const std::string quoted = "'" + key + "':";
    const size_t begin = header.find(quoted);
    if (begin == std::string::npos) bytes.refuse("a header with " + quoted);
    const size_t value = header.find_first_not_of(' ', begin + quoted.size());
    return value == std::string::npos ? "" : header.substr(value);
}

// (30, 3, 64, 64)
std::vector<int64_t> shape_of(const Bytes& bytes, const std::string& text) {
    std::vector<int64_t> shape;
    const char *at = text.data() + 1, *end = text.data() + std::min(text.find(')'), text.size());
    while (text.starts_with("(") && at < end) {
        int64_t extent = 0;
        const auto [stop, error] = std::from_chars(at, end, extent);
        if (error != std::errc() || extent <= 0) break;
        shape.push_back(extent);
        at = stop;
        while (at < end && (*at == ',' || *at == ' ')) ++at;
    }
    if (at != end || shape.size() < 2 || shape.size() > 4) {
        bytes.refuse("a shape of [L][K][D][D], [L][D][D] or [D][D], found " +
                     text.substr(0, text.find('\n')));
    }
    return shape;
}

Header read_header(Bytes& bytes) {
    if (bytes.take(6, "an .npy file") != "\x93NUMPY") bytes.refuse("an .npy file");
    const std::string version = bytes.take(2, "a version");
    if (version[0] < 1 || version[0] > 3) bytes.refuse("version 1 to 3 of .npy");
    const std::string size = bytes.take(version[0] == 1 ? 2 : 4, "the header's size");
    size_t count = 0;
    for (size_t i = size.size(); i-- > 0;) count = count * 256 + uint8_t(size[i]);
    const std::string header = bytes.take(count, "a header");
    const std::string type = value_of(bytes, header, "descr");
    const bool is_f64 = type.starts_with("'<f8'");
    if (!is_f64 && !type.starts_with("'<f4'")) bytes.refuse("numbers of type <f4 or <f8");
    if (!value_of(bytes, header, "fortran_order").starts_with("False")) {
        bytes.refuse("numbers in C order, not Fortran's");
    }
    return {is_f64, shape_of(bytes, value_of(bytes, header, "shape"))};
}

// All that follows the header; as many as the shape says, without a product that could overflow.
std::vector<float> read_numbers(Bytes& bytes, const Header& header) {
    const size_t width = header.is_f64 ? 8 : 4;
    size_t count = (bytes.all.size() - bytes.at) / width, left = count;
    for (const int64_t extent : header.shape) {
        if (left % size_t(extent) != 0) left = 0;
        left /= size_t(extent);
    }
    if (left != 1 || bytes.all.size() - bytes.at != count * width) {
        bytes.refuse("as many numbers as its shape says");
    }
    std::vector<float> numbers;
    for (; count > 0; --count) {
        const std::string raw = bytes.take(width, "a number");
        double wide = 0;
        float narrow = 0;
        std::memcpy(header.is_f64 ? static_cast<void*>(&wide) : &narrow, raw.data(), width);
        numbers.push_back(header.is_f64 ? float(wide) : narrow);
    }
    return numbers;
}

class FromFile final : public MatrixSource {
  public:
    FromFile(const std::string& words, const std::string& path) : MatrixSource(words) {
        Bytes bytes = read_file(path);
        const Header header = read_header(bytes);
        const std::vector<int64_t>& shape = header.shape;
        const int64_t d = shape.back(), heads = shape.size() == 4 ? shape[1] : 1;
        if (shape[shape.size() - 2] != d) bytes.refuse("square matrices");
        each_layer_ = shape.size() > 2;
        const std::vector<float> numbers = read_numbers(bytes, header);
        const int64_t step = heads * d * d;
        for (int64_t first = 0; first < int64_t(numbers.size()); first += step) {
            const auto begin = numbers.begin() + first;
            layers_.push_back(std::make_shared<const RotationMatrix>(
                words, heads, d, std::vector<float>(begin, begin + step)));
            require_orthogonal(bytes, *layers_.back());
        }
    }

    MatrixPointer at(const MatrixPlace& place) const override {
        const auto refuse = [](const std::string& expected, int64_t found) {
            throw Error(ErrorCode::usage,
                        "expected " + expected + ", found " + std::to_string(found));
        };
        const int64_t layers = int64_t(layers_.size());
        if (each_layer_ && layers != place.layers) {
            refuse("matrices of " + std::to_string(place.layers) + " layers", layers);
        }
        const MatrixPointer& matrix = layers_[each_layer_ ? size_t(place.layer) : 0];
        if (matrix->d() != place.d()) {
            refuse("matrices of " + std::to_string(place.d()) + " channels for layer " +
                       std::to_string(place.layer),
                   matrix->d());
        }
        if (matrix->heads() != 1 && matrix->heads() != place.kv_heads) {
            refuse("matrices of " + std::to_string(place.kv_heads) + " KV heads for layer " +
                       std::to_string(place.layer),
                   matrix->heads());
        }
        return matrix;
    }

  private:
    void require_orthogonal(const Bytes& bytes, const RotationMatrix& matrix) const {
        for (int64_t head = 0; head < matrix.heads(); ++head) {
            const double departure = matrix.departure(head);
            if (departure <= k_most_departure) continue;
            char numbers[96];
            std::snprintf(numbers, sizeof numbers, "max |M^T M - 1| up to %g, found %g",
                          k_most_departure, departure);
            bytes.refuse("orthogonal matrices, layer " + std::to_string(layers_.size() - 1) +
                         ", head " + std::to_string(head) + ": " + numbers);
        }
    }

    std::vector<MatrixPointer> layers_;
    bool each_layer_ = false;
};

}  // namespace

std::shared_ptr<const MatrixSource> file_source(const std::string& words, const std::string& path) {
    return std::make_shared<const FromFile>(words, path);
}

}  // namespace rotkv::zoo
