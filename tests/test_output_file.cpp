// Files and folders that appear when they are whole: who else writes them, where links lead, and
// what a signal leaves.
#include "ref/files/output_file.h"
#include "ref/files/partial_names.h"
#include "tests/catch.h"
#include "tests/temporary_folder.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <limits>
#include <memory>

using namespace rotkv;
using namespace rotkv::test;
namespace fs = std::filesystem;

TEST_CASE("output_file: two that write one file do not meet, and the last to finish stays") {
    const TemporaryFolder folder;
    const std::string path = folder.file("a");
    {
        OutputFile first(path), second(path);
        CHECK(folder.n_files() == 2);
        CHECK_FALSE(fs::exists(path));
        first.write(std::string("one"));
        second.write(std::string("two, and longer"));
        second.finish();
        CHECK(read_all(path) == "two, and longer");
        first.finish();
    }
    CHECK(read_all(path) == "one");
    CHECK(folder.n_files() == 1);
}

TEST_CASE("output_file: what a killed process left under its name is not touched") {
    const TemporaryFolder folder;
    std::string name;
    {
        const OutputFile file(folder.file("a"));
        name = fs::directory_iterator(folder.path)->path().string();
    }
    CHECK(name.ends_with(".partial"));
    CHECK(folder.n_files() == 0);
    write_all(name, "of another");
    OutputFile file(folder.file("a"));
    file.write(std::string("ours"));
    file.finish();
    CHECK(read_all(name) == "of another");
    CHECK(read_all(folder.file("a")) == "ours");
}

TEST_CASE("output_file: remove_partial_files takes what is not whole, and nothing else") {
    const TemporaryFolder folder;
    OutputFile whole(folder.file("whole"));
    whole.finish();
    std::vector<std::unique_ptr<OutputFile>> open;
    for (int i = 0; i < 100; ++i) {
        open.push_back(std::make_unique<OutputFile>(folder.file(std::to_string(i))));
    }
    write_all(folder.file("foreign.1.partial"), "x");
    remove_partial_files();
    CHECK(folder.n_files() == 2);
    CHECK(fs::exists(folder.file("whole")));
    CHECK(fs::exists(folder.file("foreign.1.partial")));
    open.clear();  // what is gone is not missed
    CHECK(folder.n_files() == 2);
    const OutputFile again(folder.file("again"));  // their places are free
    remove_partial_files();
    CHECK(folder.n_files() == 2);
}

// A dump of all cases keeps some twenty thousand.
TEST_CASE("output_file: a name is kept as quickly among many as among few") {
    std::vector<PartialName*> kept;
    const auto seconds_of_some = [&] {
        constexpr int k_some = 1000, k_tries = 5;
        double least = std::numeric_limits<double>::infinity();
        for (int i = 0; i < k_tries; ++i) {
            const auto begin = std::chrono::steady_clock::now();
            for (int j = 0; j < k_some; ++j) kept.push_back(keep_name("no such file"));
            const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - begin;
            least = std::min(least, taken.count());
            for (int j = 0; j < k_some; ++j) {
                forget_name(kept.back());
                kept.pop_back();
            }
        }
        return least;
    };
    const double among_few = seconds_of_some();
    for (int i = 0; i < 50000; ++i) kept.push_back(keep_name("no such file"));
    const double among_many = seconds_of_some();
    for (PartialName* one : kept) forget_name(one);
    CHECK(among_many < 10 * among_few);  // 70 times where one walks along them
}

TEST_CASE("output_file: through a link, what it leads to is replaced when it is whole") {
    const TemporaryFolder folder, other;
    fs::create_directory(other.file("links"));
    const std::string link = folder.file("link"), target = other.file("target");
    const bool there = GENERATE(true, false);
    if (there) write_all(target, "old");
    fs::create_symlink("../target", other.file("links/second"));
    fs::create_symlink(other.file("links/second"), link);
    {
        OutputFile broken(link);
        broken.write(std::string("half"));
        broken.flush();
        CHECK(fs::exists(target) == there);
        if (there) CHECK(read_all(target) == "old");
    }
    CHECK(fs::exists(target) == there);
    OutputFile file(link);
    file.write(std::string("new"));
    file.finish();
    CHECK(fs::is_symlink(link));
    CHECK(read_all(target) == "new");
    CHECK(folder.n_files() == 1);
    CHECK(other.n_files() == 2);
}

TEST_CASE("output_file: links that lead nowhere are said when the file is begun") {
    const TemporaryFolder folder;
    fs::create_symlink(folder.file("no/target"), folder.file("astray"));
    fs::create_symlink("circle", folder.file("circle"));
    for (const char* name : {"astray", "circle"}) {
        CHECK_THROWS_WITH(OutputFile(folder.file(name)),
                          containing(std::string(name) + " cannot be created: "));
    }
    CHECK(folder.n_files() == 2);
}

TEST_CASE("output_file: what is open already is written and not replaced") {
    const TemporaryFolder folder;
    const std::string path = folder.file("open");
    std::FILE* file = std::fopen(path.c_str(), "wb");
    REQUIRE(file != nullptr);
    OutputFile output("/dev/fd/" + std::to_string(fileno(file)));
    CHECK(folder.n_files() == 1);
    output.write(std::string("through the number"));
    output.finish();
    std::fclose(file);
    CHECK(read_all(path) == "through the number");
    CHECK(place_of_output("/dev/null").empty());
    CHECK(place_of_output(path) == path);
}

TEST_CASE("output_file: a folder appears when all of it is there") {
    const TemporaryFolder folder;
    const std::string path = folder.file("rows/");
    const auto begin = [](OutputFolder& out) {
        out.write("index", "all");
        out.make_folder("0000");
        out.write("0000/a", "one");
    };
    {
        OutputFolder broken(path);
        begin(broken);
        CHECK_FALSE(fs::exists(path));
        CHECK(folder.n_files() == 1);
        CHECK_THROWS_WITH(broken.write("no/a", "x"), containing("rows/no/a cannot be created"));
    }
    CHECK(folder.n_files() == 0);
    {
        OutputFolder ended(path);
        begin(ended);
        remove_partial_files();  // as a signal would
        CHECK(folder.n_files() == 0);
    }
    OutputFolder whole(path);
    begin(whole);
    whole.finish();
    remove_partial_files();
    CHECK(read_all(path + "0000/a") == "one");
    CHECK(read_all(path + "index") == "all");
    CHECK(folder.n_files() == 1);
    CHECK_THROWS_WITH(OutputFolder(path), containing("it exists"));
}
