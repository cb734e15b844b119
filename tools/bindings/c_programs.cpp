// rotkv_programs.h: programs as functions.
#include "tools/bindings/open_model.h"
#include "tools/programs.h"

using namespace rotkv;
using namespace rotkv::bindings;

struct rotkv_document {
    std::string text;
};

const char* rotkv_document_text(const rotkv_document* document) {
    return document == nullptr ? "" : document->text.c_str();
}

void rotkv_document_close(rotkv_document* document) { delete document; }

static const std::vector<std::string>& names() {
    static const std::vector<std::string> all = tools::program_names();
    return all;
}

size_t rotkv_program_count(void) { return names().size(); }

const char* rotkv_program_name(size_t index) {
    return index < names().size() ? names()[index].c_str() : nullptr;
}

// Matrices [layers][KV heads][D][D], layer by layer.
static void show(rotkv_matrix_visitor visit, void* user, Side side, std::span<const float> matrices,
                 const std::vector<std::size_t>& shape) {
    if (visit == nullptr) return;
    const std::size_t layers = shape[0], one = matrices.size() / layers;
    for (std::size_t layer = 0; layer < layers; ++layer) {
        const int32_t answer =
            visit(user, int64_t(layer), side == Side::k ? 0 : 1, matrices.data() + layer * one,
                  int64_t(shape[1]), int64_t(shape[2]));
        if (answer != 0) throw Cancelled();
    }
}

rotkv_status rotkv_program_run(rotkv_model* model, const char* program, const char* const* flags,
                               int64_t n_flags, const char* text, size_t bytes,
                               rotkv_progress progress, void* user, rotkv_matrix_visitor visit,
                               void* visitor, rotkv_document** document) {
    return at_border([&] {
        needed(document, "document") = nullptr;
        const std::shared_ptr<OpenModel> open = needed(model, "model").open;
        const std::string name = text_at(program, "program");
        require_number("n_flags", n_flags, 0, 1 << 16);
        std::vector<std::string> words;
        for (const char* flag : elements(flags, n_flags, "flags")) {
            words.push_back(text_at(flag, "flags"));
        }
        const std::string contents(text_of(text, bytes));
        const Turn turn(*open->open);
        tools::ProgramCall call{.parts = {{open, &open->file},
                                          {open, &open->tokenizer},
                                          {open, open->open->backend.get()}},
                                .weights = open->model};
        call.watch.step = Progress{progress, user};
        call.show_matrices = [&](Side side, std::span<const float> matrices,
                                 const std::vector<std::size_t>& shape) {
            show(visit, visitor, side, matrices, shape);
        };
        using Json = nlohmann::ordered_json;
        const Json found = tools::run_program(name, words, contents, call);
        *document = new rotkv_document{found.dump(-1, ' ', false, Json::error_handler_t::replace)};
    });
}
