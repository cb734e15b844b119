// Files that appear when they are whole: who else writes them, and what a signal leaves.
#include "ref/files/output_file.h"
#include "tests/catch.h"
#include "tests/temporary_folder.h"

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
    for (int i = 0; i < 100; ++i) {  // more than are remembered
        open.push_back(std::make_unique<OutputFile>(folder.file(std::to_string(i))));
    }
    write_all(folder.file("foreign.1.partial"), "x");
    remove_partial_files();
    CHECK(folder.n_files() == 2 + 100 - 64);
    CHECK(fs::exists(folder.file("whole")));
    CHECK(fs::exists(folder.file("foreign.1.partial")));
    open.clear();  // what is gone is not missed
    CHECK(folder.n_files() == 2);
    const OutputFile again(folder.file("again"));  // their places are free
    remove_partial_files();
    CHECK(folder.n_files() == 2);
}
