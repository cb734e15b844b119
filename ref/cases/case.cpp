// Names of cases: taken apart into fields, written out from the table's lists, found.
#include "ref/cases/case.h"

#include "ref/cases/case_of.h"
#include "ref/cases/cases.h"
#include "ref/cases/cases_attention.h"
#include "ref/cases/cases_delta.h"
#include "ref/cases/cases_experts.h"
#include "ref/cases/cases_norms.h"
#include "ref/cases/cases_path.h"
#include "ref/error.h"
#include "ref/files/fnv1a.h"
#include "ref/quant.h"
#include "ref/rotation_words.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <numeric>
#include <optional>
#include <sstream>

namespace rotkv {

Fields::Fields(std::string_view name) : name_(name), op_(name.substr(0, name.find('/'))) {
    const std::string_view rest = name.substr(std::min(op_.size() + 1, name.size()));
    if (rest == "default") return;  // so that no name is the beginning of all the others
    size_t begin = 0;
    while (begin <= rest.size()) {
        const size_t end = std::min(rest.find('/', begin), rest.size());
        const std::string_view part = rest.substr(begin, end - begin);
        const size_t equals = part.find('=');
        if (equals == std::string_view::npos) {
            throw Error(ErrorCode::bad_argument,
                        "case " + name_ + ": expected key=value fields or " + "'default', found '" +
                            std::string(part) + "'");
        }
        given_.emplace_back(part.substr(0, equals), part.substr(equals + 1));
        begin = end + 1;
    }
}

void Fields::refuse(const char* key, const std::string& expected, const std::string& found) const {
    throw Error(ErrorCode::bad_argument,
                "case " + name_ + ": " + key + ": expected " + expected + ", found " + found);
}

bool Fields::take(const char* key, std::string& value) {
    const bool given = next_ < given_.size() && given_[next_].first == key;
    if (given) {
        if (given_[next_].second == value) refuse(key, "nothing, it is the default", value);
        value = given_[next_++].second;
    }
    read_.emplace_back(key, value);
    return given;
}

int64_t Fields::number(const char* key, int64_t standard, int64_t least) {
    std::string text = std::to_string(standard);
    take(key, text);
    int64_t value = 0;
    std::from_chars(text.data(), text.data() + text.size(), value);
    if (std::to_string(value) != text) refuse(key, "a number", text);
    if (value < least) refuse(key, std::to_string(least) + " or more", text);
    return value;
}

int64_t Fields::n_rot(int64_t d) {
    const int64_t value = number("n_rot", 64, 2);
    if (value % 2 != 0 || value > d) {
        refuse("n_rot", "an even number up to " + std::to_string(d), std::to_string(value));
    }
    return value;
}

bool Fields::flag(const char* key) {
    std::string text = "0";
    take(key, text);
    if (text != "0" && text != "1") refuse(key, "1 or nothing", text);
    return text == "1";
}

// As %g writes it: "20", "0.1".
static std::string real_name(double value) {
    std::ostringstream text;
    text << value;
    return text.str();
}

double Fields::real(const char* key, double standard) {
    std::string text = real_name(standard);
    take(key, text);
    const double value = std::strtod(text.c_str(), nullptr);
    if (!std::isfinite(value) || real_name(value) != text) {
        refuse(key, "a number of at most six digits", text);
    }
    return value;
}

std::string Fields::word(const char* key, const std::string& standard,
                         std::initializer_list<const char*> allowed) {
    std::string text = standard;
    take(key, text);
    std::string list;
    for (const char* one : allowed) {
        if (text == one) return text;
        list += (list.empty() ? "" : ", ") + std::string(one);
    }
    refuse(key, "one of " + list, text);
}

Precision Fields::precision(std::initializer_list<const char*> allowed) {
    const std::string text = word("precision", "f32", allowed);
    return text == "f32" ? Precision::f32 : text == "f16" ? Precision::f16 : Precision::bf16;
}

DType Fields::type(const char* key) {
    std::string text;
    if (!take(key, text)) refuse(key, "a type", "nothing");
    const DType type = parse_type(text);
    if (type_info(type).name != text) refuse(key, type_info(type).name, text);
    return type;
}

Rotation Fields::rotation(const char* key, int64_t d) {
    std::string text = rotation_name(Rotation{});
    take(key, text);
    const std::optional<Rotation> rotation = parse_rotation(text);
    if (!rotation || rotation->first != 0 || rotation_name(*rotation) != text) {
        refuse(key, "BLOCK or BLOCK:SEED", text);
    }
    if (!rotation->fits(d)) {
        refuse(key, "a block of a power of two that divides " + std::to_string(d), text);
    }
    return *rotation;
}

void Fields::finish() const {
    if (next_ == given_.size()) return;
    std::string list;
    for (const auto& field : read_) list += (list.empty() ? "" : ", ") + field.first;
    refuse(given_[next_].first.c_str(), "the fields " + list + ", in this order",
           "it after or beside them");
}

int64_t CaseTensor::rows() const {
    return std::accumulate(extents.begin(), extents.end() - 1, int64_t(1), std::multiplies<>());
}
int64_t CaseTensor::size() const { return rows() * extents.back(); }
int64_t CaseTensor::bytes_of_row() const { return row_bytes(type, extents.back()); }

std::vector<float> CaseTensor::values() const {
    ref::check_dequantize_row(type, extents.back());
    std::vector<float> result(static_cast<size_t>(size()));
    for (int64_t r = 0; r < rows(); ++r) {
        ref::dequantize_row(type, result.data() + r * extents.back(),
                            bytes.data() + r * bytes_of_row(), extents.back());
    }
    return result;
}

template <class T>
static std::vector<T> elements_of(std::span<const std::byte> bytes) {
    std::vector<T> result(bytes.size() / sizeof(T));
    if (!bytes.empty()) std::memcpy(result.data(), bytes.data(), bytes.size());
    return result;
}

std::vector<int32_t> CaseTensor::indices() const { return elements_of<int32_t>(bytes); }

std::vector<float> floats_of(std::span<const std::byte> bytes) { return elements_of<float>(bytes); }

void CaseTensor::set(std::span<const float> values) {
    ref::check_quantize_row(type, extents.back());
    bytes.resize(size_t(rows() * bytes_of_row()));
    for (int64_t r = 0; r < rows(); ++r) {
        ref::quantize_row(type, bytes.data() + r * bytes_of_row(),
                          values.data() + r * extents.back(), extents.back());
    }
}

void CaseTensor::set(std::span<const int32_t> values) {
    const std::span<const std::byte> raw = std::as_bytes(values);
    bytes.assign(raw.begin(), raw.end());
}

TensorView Views::operator[](std::string_view name) const {
    for (size_t i = 0; i < tensors_.size(); ++i) {
        if (tensors_[i].name == name) return views_[i];
    }
    return {};
}

Case::Work Case::work() const {
    Work work;
    for (const CaseTensor& tensor : tensors()) {
        work.bytes += double(tensor.rows() * tensor.bytes_of_row());
    }
    return work;
}

void Case::read_layout(Fields& fields, bool in_place) {
    const std::string word =
        in_place ? fields.word("layout", "packed", {"packed", "padded", "skewed", "in_place"})
                 : fields.word("layout", "packed", {"packed", "padded", "skewed"});
    layout_ = word == "packed"   ? Layout::packed
              : word == "padded" ? Layout::padded
              : word == "skewed" ? Layout::skewed
                                 : Layout::in_place;
}

uint64_t Case::seed() const {
    Fnv1a hash;
    hash.add(std::as_bytes(std::span(name_)));
    return hash.sum();
}

std::span<const CaseOp> case_ops() {
    static const std::vector<CaseOp> all = [] {
        std::vector<CaseOp> list;
        for (const std::span<const CaseOp> part :
             {row_case_ops(), cache_case_ops(), delta_case_ops(), attention_case_ops(),
              path_case_ops(), norm_case_ops(), weight_case_ops(), expert_case_ops(),
              likelihood_case_ops()}) {
            list.insert(list.end(), part.begin(), part.end());
        }
        return list;
    }();
    return all;
}

// Whoever runs a case holds its tensors several times over, most of them as f32.
static void check_size(const std::string& name, const std::vector<CaseTensor>& tensors) {
    constexpr int64_t most = int64_t(1) << 29;
    int64_t elements = 0;
    for (const CaseTensor& tensor : tensors) {
        int64_t size = 1;
        for (const int64_t n : tensor.extents) {  // a tensor of no rows may have long ones
            size =
                std::max<int64_t>(n, 1) > most / size ? most + 1 : size * std::max<int64_t>(n, 1);
        }
        elements = std::min(elements + size, most + 1);
    }
    if (elements <= most) return;
    throw Error(ErrorCode::bad_argument, "case " + name + ": expected tensors of at most " +
                                             std::to_string(most) + " elements, found more");
}

std::unique_ptr<Case> make_case(std::string_view name) {
    Fields fields(name);
    std::string known;
    for (const CaseOp& op : case_ops()) {
        known += (known.empty() ? "" : ", ") + std::string(op.name);
        if (fields.op() != op.name) continue;
        std::unique_ptr<Case> result = op.make(fields);
        fields.finish();
        check_size(std::string(name), result->tensors());
        result->name_ = name;
        result->op_ = op.name;
        result->fields_ = fields.read();
        return result;
    }
    throw Error(ErrorCode::bad_argument, "case " + std::string(name) + ": expected one of " +
                                             known + ", found " + fields.op());
}

// A row of the table: "@list" stands for every word of the list, "@same" for the value before it.
static void write_out(const std::string& row, std::vector<std::string>& names) {
    const size_t at = row.find('@');
    if (at == std::string::npos) {
        names.push_back(row);
        return;
    }
    const size_t end = std::min(row.find('/', at), row.size());
    const std::string list = row.substr(at, end - at), before = row.substr(0, at);
    if (list == "@same") {
        const size_t last = before.rfind('/'), equals = before.rfind('=', last);
        write_out(before + before.substr(equals + 1, last - equals - 1) + row.substr(end), names);
        return;
    }
    for (const CaseList& one : k_case_lists) {
        if (list != one.name) continue;
        for (const char* word : one.words) write_out(before + word + row.substr(end), names);
        return;
    }
    throw Error(ErrorCode::bad_argument, "case " + row + ": no list is called " + list);
}

std::vector<std::string> case_names() {
    std::vector<std::string> names;
    for (const char* row : k_cases) write_out(row, names);
    for (const char* row : k_attention_cases) write_out(row, names);
    for (const char* row : k_path_cases) write_out(row, names);
    for (const char* row : k_norm_cases) write_out(row, names);
    for (const char* row : k_delta_cases) write_out(row, names);
    for (const char* row : k_expert_cases) write_out(row, names);
    return names;
}

std::vector<std::string> case_names(std::string_view pattern) {
    std::vector<std::string> names = case_names();
    if (std::find(names.begin(), names.end(), pattern) != names.end()) {
        return {std::string(pattern)};
    }
    std::erase_if(names,
                  [&](const std::string& name) { return name.find(pattern) == std::string::npos; });
    return names;
}

}  // namespace rotkv
