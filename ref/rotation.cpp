#include "ref/rotation.h"

#include "ref/error.h"

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdlib>
#include <sstream>
#include <vector>

namespace rotkv {

float rotation_sign(uint64_t seed, int64_t i) {
    uint64_t z = seed + (uint64_t(i) + 1) * 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    z = z ^ (z >> 31);
    return (z >> 63) != 0 ? -1.0f : 1.0f;
}

float rotation_scale(int64_t block) { return 1.0f / std::sqrt(float(block)); }

static bool is_power_of_two(int64_t n) { return n > 0 && (n & (n - 1)) == 0; }

static int64_t largest_power_of_two_divisor(int64_t n) { return n & -n; }

// A whole decimal number, or nothing.
static std::optional<int64_t> parse_number(std::string_view text) {
    if (text.empty() || text.size() > 18) return std::nullopt;
    int64_t value = 0;
    for (const char c : text) {
        if (c < '0' || c > '9') return std::nullopt;
        value = value * 10 + (c - '0');
    }
    return value;
}

RotationRequest::PerSide parse_rotation(std::string_view text, const std::string& origin) {
    RotationRequest::PerSide side;
    side.origin = origin;
    if (text == "auto") {
        side.origin = "policy";
    } else if (text == "off") {
        side.mode = RotationRequest::Mode::off;
    } else if (text == "on") {
        side.mode = RotationRequest::Mode::on;
    } else if (const std::optional<int64_t> block = parse_number(text)) {
        side.mode = RotationRequest::Mode::block;
        side.block = *block;
    } else {
        throw Error(ErrorCode::usage, origin + ": expected auto, off, on or a block size, found '" +
                                          std::string(text) + "'");
    }
    return side;
}

RotationRequest rotation_from_environment() {
    RotationRequest request;
    const char* disable = std::getenv("LLAMA_ATTN_ROT_DISABLE");
    if (disable != nullptr && std::atoi(disable) != 0) {
        request.k.mode = request.v.mode = RotationRequest::Mode::off;
        request.k.origin = request.v.origin = "LLAMA_ATTN_ROT_DISABLE";
    }
    const auto override_side = [](const char* name, RotationRequest::PerSide& side) {
        const char* value = std::getenv(name);
        if (value == nullptr) return;
        const std::string_view text = value;
        if (text != "0" && text != "1") {
            throw Error(ErrorCode::usage,
                        std::string(name) + ": expected 0 or 1, found '" + value + "'");
        }
        side = parse_rotation(text == "1" ? "on" : "off", name);
    };
    override_side("LLAMA_ATTN_ROT_K_OVERRIDE", request.k);
    override_side("LLAMA_ATTN_ROT_V_OVERRIDE", request.v);
    return request;
}

namespace {

struct Decision {
    Rotation rotation;
    std::string reason;
};

// The rule of one side. `policy_block` is the block that `automatic` and `on` take.
Decision decide_side(const RotationRequest::PerSide& asked, std::optional<uint64_t> signs,
                     DType type, int64_t d, int64_t policy_block) {
    using Mode = RotationRequest::Mode;
    const std::string head = "D = " + std::to_string(d);
    const std::string type_name = type_info(type).name;
    const auto rotate = [&](int64_t block, const std::string& reason) {
        Rotation rotation{Rotation::Kind::sylvester, block, 0, 0};
        if (signs) {
            rotation.kind = Rotation::Kind::signs;
            rotation.seed = *signs;
        }
        return Decision{rotation, reason};
    };
    switch (asked.mode) {
        case Mode::off:
            return {Rotation{}, asked.origin};
        case Mode::automatic:
            if (!is_block_type(type))
                return {Rotation{}, "policy: " + type_name + " is not quantized"};
            if (d % 64 != 0) return {Rotation{}, "policy: " + head + " is no multiple of 64"};
            return rotate(policy_block, "policy: " + type_name + " is quantized, " + head);
        case Mode::on:
            if (d % 64 != 0) {
                throw Error(ErrorCode::usage, asked.origin +
                                                  ": 'on' needs a head size that is a "
                                                  "multiple of 64, found " +
                                                  head);
            }
            return rotate(policy_block, asked.origin);
        case Mode::block:
            break;
    }
    if (!is_power_of_two(asked.block) || d % asked.block != 0) {
        throw Error(ErrorCode::usage, asked.origin + ": expected a power of two that divides " +
                                          head + ", found " + std::to_string(asked.block));
    }
    return rotate(asked.block, asked.origin);
}

std::string kind_name(Rotation::Kind kind) {
    switch (kind) {
        case Rotation::Kind::none:
            return "none";
        case Rotation::Kind::sylvester:
            return "sylvester";
        case Rotation::Kind::signs:
            return "signs";
    }
    return "none";
}

}  // namespace

RotationSpec RotationSpec::decide(const RotationRequest& request, DType type_k, int64_t d_k,
                                  DType type_v, int64_t d_v) {
    const Decision k =
        decide_side(request.k, request.signs, type_k, d_k, largest_power_of_two_divisor(d_k));
    const Decision v = decide_side(request.v, request.signs, type_v, d_v, 64);
    RotationSpec spec;
    spec.k_ = k.rotation;
    spec.k_reason_ = k.reason;
    spec.v_ = v.rotation;
    spec.v_reason_ = v.reason;
    return spec;
}

RotationSpec RotationSpec::decide_shared(const RotationRequest& request, DType type, int64_t d_k,
                                         int64_t first, int64_t d_v) {
    const bool differs = request.v.mode != RotationRequest::Mode::automatic &&
                         (request.v.mode != request.k.mode || request.v.block != request.k.block);
    if (differs) {
        throw Error(ErrorCode::usage,
                    request.v.origin + ": V is a view of K here and takes K's rotation");
    }
    const Decision k =
        decide_side(request.k, request.signs, type, d_k, largest_power_of_two_divisor(d_k));
    const int64_t step =
        std::max<int64_t>(k.rotation.on() ? k.rotation.block : 1, type_info(type).block_elements);
    if (first % step != 0 || d_v % step != 0) {
        throw Error(ErrorCode::usage, "V is a view of K's channels " + std::to_string(first) +
                                          " .. " + std::to_string(first + d_v) +
                                          ", expected borders of blocks of " +
                                          std::to_string(step));
    }
    RotationSpec spec;
    spec.k_ = spec.v_ = k.rotation;
    if (k.rotation.kind == Rotation::Kind::signs)
        spec.v_.first = first;  // signs alone count channels
    spec.k_reason_ = k.reason;
    spec.v_reason_ = "V is a view of K; " + k.reason;
    return spec;
}

RotationSpec RotationSpec::of(const Rotation& k, const Rotation& v) {
    RotationSpec spec;
    spec.k_ = k;
    spec.v_ = v;
    return spec;
}

Rotation RotationSpec::at(int64_t /*layer*/, int64_t /*kv_head*/, Side side) const {
    return side == Side::k ? k_ : v_;
}

std::string RotationSpec::words(Side side) const {
    const Rotation& rotation = side == Side::k ? k_ : v_;
    if (!rotation.on()) return "off (" + reason(side) + ")";
    std::string text = kind_name(rotation.kind) + ", block " + std::to_string(rotation.block);
    if (rotation.kind == Rotation::Kind::signs) text += ", seed " + std::to_string(rotation.seed);
    return text + " (" + reason(side) + ")";
}

// One side as "kind/block/seed/first"; trailing parts that the kind does not need are left out.
static std::string serialize_side(const Rotation& rotation) {
    std::string text = kind_name(rotation.kind);
    if (!rotation.on()) return text;
    text += "/" + std::to_string(rotation.block);
    if (rotation.kind == Rotation::Kind::signs) {
        text += "/" + std::to_string(rotation.seed);
        if (rotation.first != 0) text += "/" + std::to_string(rotation.first);
    }
    return text;
}

std::string RotationSpec::serialize() const {
    return "k=" + serialize_side(k_) + " v=" + serialize_side(v_);
}

static Rotation parse_side(std::string_view text, std::string_view whole) {
    const auto fail = [&]() -> Error {
        return Error(ErrorCode::bad_file, "rotation '" + std::string(whole) +
                                              "': expected k=KIND[/BLOCK[/SEED[/FIRST]]] v=...");
    };
    std::vector<std::string> parts;
    std::stringstream stream{std::string(text)};
    for (std::string part; std::getline(stream, part, '/');) parts.push_back(part);
    if (parts.empty()) throw fail();
    Rotation rotation;
    if (parts[0] == "none" && parts.size() == 1) return rotation;
    const bool with_signs = parts[0] == "signs";
    const std::size_t most = with_signs ? 4 : 2, least = with_signs ? 3 : 2;
    if ((parts[0] != "sylvester" && !with_signs) || parts.size() < least || parts.size() > most) {
        throw fail();
    }
    rotation.kind = with_signs ? Rotation::Kind::signs : Rotation::Kind::sylvester;
    const std::optional<int64_t> block = parse_number(parts[1]);
    if (!block || !is_power_of_two(*block)) throw fail();
    rotation.block = *block;
    if (with_signs) {
        char* end = nullptr;
        errno = 0;
        rotation.seed = std::strtoull(parts[2].c_str(), &end, 10);
        if (errno != 0 || *end != '\0' || parts[2].empty() || parts[2][0] == '-') throw fail();
    }
    if (parts.size() == 4) {
        const std::optional<int64_t> first = parse_number(parts[3]);
        if (!first) throw fail();
        rotation.first = *first;
    }
    return rotation;
}

RotationSpec RotationSpec::parse(std::string_view text) {
    const std::size_t space = text.find(' ');
    if (text.substr(0, 2) != "k=" || space == std::string_view::npos ||
        text.substr(space + 1, 2) != "v=") {
        throw Error(ErrorCode::bad_file,
                    "rotation '" + std::string(text) + "': expected k=... v=...");
    }
    RotationSpec spec;
    spec.k_ = parse_side(text.substr(2, space - 2), text);
    spec.v_ = parse_side(text.substr(space + 3), text);
    spec.k_reason_ = spec.v_reason_ = "as saved";
    return spec;
}

}  // namespace rotkv
