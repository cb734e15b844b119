#include "tools/sweep_file.h"

#include "ref/error.h"
#include "tools/cli.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <string_view>
#include <system_error>

namespace rotkv::tools {

using Json = nlohmann::ordered_json;

SweepFile::SweepFile(const std::string& path, const Json& header,
                     const std::vector<std::string>& names)
    : path_(path) {
    if (path.empty()) return;
    open();
    try {
        read(header, names);
    } catch (...) {
        close(file_);
        throw;
    }
}

SweepFile::~SweepFile() {
    if (file_ >= 0) close(file_);
}

void SweepFile::fail(const std::string& what) const {
    const std::string reason = std::generic_category().message(errno);
    throw Error(ErrorCode::io, fmt::format("{} {}: {}", path_, what, reason));
}

// The lock goes with the process, however it ends: nothing is left to be cleaned up.
void SweepFile::open() {
    file_ = ::open(path_.c_str(), O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    if (file_ < 0) fail("cannot be opened");
    struct stat status;
    const bool plain = fstat(file_, &status) == 0 && S_ISREG(status.st_mode);
    if (plain && flock(file_, LOCK_EX | LOCK_NB) == 0) return;
    close(file_);
    throw Error(ErrorCode::io, path_ + (plain ? ": another process is writing it"
                                              : ": expected a plain file, which can be resumed"));
}

void SweepFile::write(const std::string& text) {
    for (std::size_t done = 0; done < text.size();) {
        const ssize_t count = ::write(file_, text.data() + done, text.size() - done);
        if (count < 0 && errno == EINTR) continue;
        if (count < 0) fail("cannot be written");
        done += std::size_t(count);
    }
    if (fsync(file_) != 0) fail("cannot be written");
}

void SweepFile::append(const SweepRow& row) {
    if (file_ >= 0) write(line_of(row) + "\n");
    rows_.push_back(row);
}

namespace {

// Reads one line with `parse`; what JSON has to say about it becomes one line of ours.
template <class Parse>
auto parse_line(const std::string& path, std::size_t number, std::string_view line, Parse parse) {
    try {
        return parse(Json::parse(line));
    } catch (const Json::exception&) {
        throw Error(ErrorCode::bad_file,
                    fmt::format("{}:{}: expected {}, found something else", path, number,
                                number == 1 ? "the first line of a sweep" : "a cell of a sweep"));
    }
}

Json parse_header(const Json& json) {
    json.at("rotkv_sweep");
    return json;
}

}  // namespace

bool only_for_people(const std::string& key) {
    return key == "model" || key == "model_bytes" || key == "text" || key == "notices";
}

std::string difference_of(const Json& file, const Json& run) {
    const auto value = [](const Json& header, const std::string& key) {
        return header.contains(key) ? header.at(key).dump() : std::string("nothing");
    };
    for (const Json* header : {&run, &file}) {
        for (const auto& [key, ignored] : header->items()) {
            if (only_for_people(key) || value(file, key) == value(run, key)) continue;
            return fmt::format("{}: the file has {}, this run {}", key, value(file, key),
                               value(run, key));
        }
    }
    return "";
}

// A row that is not the expected one, or has the figures of other windows.
void SweepFile::check(const SweepRow& row, std::size_t number, const std::string& name,
                      std::size_t windows) const {
    const auto wrong = [&](const auto& expected, const auto& found) {
        throw Error(ErrorCode::bad_file,
                    fmt::format("{}:{}: expected {}, found {}", path_, number, expected, found));
    };
    if (row.name() != name) wrong(name, row.name());
    if (!row.found || row.found->kld_windows.size() == windows) return;
    wrong(fmt::format("{} windows", windows), row.found->kld_windows.size());
}

void SweepFile::read(const Json& header, const std::vector<std::string>& names) {
    const std::string text = read_text(path_);
    const std::string first = header.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
    const std::size_t whole = text.rfind('\n') + 1;  // 0 without any
    torn_ = text.size() - whole;
    // Without a whole line, only the beginning of our own header is ours to drop.
    if (whole == 0 && !first.starts_with(text)) {
        throw Error(ErrorCode::bad_file, path_ + ": not the file of a sweep");
    }
    std::size_t number = 0;
    for (std::size_t begin = 0; begin < whole; begin = text.find('\n', begin) + 1) {
        const std::string_view line(text.data() + begin, text.find('\n', begin) - begin);
        if (++number == 1) {
            const Json found = parse_line(path_, number, line, parse_header);
            const std::string difference = difference_of(found, header);
            if (difference.empty()) continue;
            throw Error(ErrorCode::bad_file, path_ + " is of another sweep: " + difference);
        }
        rows_.push_back(parse_line(path_, number, line, parse_row));
        check(rows_.back(), number, number - 2 < names.size() ? names[number - 2] : "no more",
              header.at("windows").get<std::size_t>());
    }
    if (torn_ > 0 && ftruncate(file_, off_t(whole)) != 0) fail("cannot be cut");
    if (whole == 0) write(first);
}

}  // namespace rotkv::tools
