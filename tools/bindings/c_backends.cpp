// rotkv.h: version, backends, cases.
#include "tools/backends.h"
#include "tools/bindings/border.h"
#include "tools/cli.h"
#include "tools/parity/mistaken_backend.h"
#include "tools/parity/parity.h"

using namespace rotkv;
using namespace rotkv::bindings;

const char* rotkv_version(void) {
    static const std::string version = tools::version_of_build();
    return version.c_str();
}

size_t rotkv_backend_count(void) { return tools::backends().size(); }

const char* rotkv_backend_name(size_t index) {
    return index < tools::backends().size() ? tools::backends()[index].name : nullptr;
}

rotkv_status rotkv_backends_in_words(char* text, size_t capacity, size_t* length) {
    return at_border([&] { give_text(tools::list_backends(), text, capacity, length); });
}

rotkv_status rotkv_backend_open(const char* name, int32_t threads, rotkv_backend** backend) {
    return at_border([&] {
        needed(backend, "backend") = nullptr;
        *backend = new rotkv_backend{open_backend(name, threads)};
    });
}

void rotkv_backend_close(rotkv_backend* backend) { delete backend; }

rotkv_status rotkv_backend_in_words(rotkv_backend* backend, char* text, size_t capacity,
                                    size_t* length) {
    return at_border([&] {
        const Backend& one = *backend_of(backend)->backend;
        give_text(one.name() + ": " + one.description(), text, capacity, length);
    });
}

rotkv_status rotkv_mistakes_in_words(char* text, size_t capacity, size_t* length) {
    return at_border([&] {
        std::string lines;
        for (const MistakeInfo& one : mistakes()) {
            lines += std::string(one.name) + "   " + one.sentence + "\n";
        }
        give_text(lines, text, capacity, length);
    });
}

rotkv_status rotkv_backend_open_mistaken(const char* name, int32_t threads, const char* mistake,
                                         rotkv_backend** backend) {
    return at_border([&] {
        needed(backend, "backend") = nullptr;
        const std::string asked = text_at(mistake, "mistake");
        const MistakeInfo& made = tools::mistake_of_name(asked);
        std::shared_ptr<OpenBackend> open = open_backend(name, threads);
        open->backend = std::make_unique<tools::MistakenBackend>(std::move(open->backend), made);
        *backend = new rotkv_backend{std::move(open)};
    });
}

static const std::vector<std::string>& names_of_cases() {
    static const std::vector<std::string> names = case_names();
    return names;
}

size_t rotkv_case_count(void) { return names_of_cases().size(); }

const char* rotkv_case_name(size_t index) {
    const std::vector<std::string>& names = names_of_cases();
    return index < names.size() ? names[index].c_str() : nullptr;
}

rotkv_status rotkv_case_run(rotkv_backend* backend, const char* name, int32_t* outcome,
                            double* bound_used, char* text, size_t capacity, size_t* length) {
    return at_border([&] {
        needed(outcome, "outcome");
        const std::unique_ptr<Case> one = make_case(text_at(name, "name"));
        const std::shared_ptr<OpenBackend> open = backend_of(backend);
        const Turn turn(*open);
        const Support support = one->supports(turn.backend());
        tools::CaseResult result{tools::Outcome::unsupported, support.reason, 0};
        if (support.yes) {
            result = tools::run_on(*one, tools::expected_results(*one), turn.backend());
        }
        *outcome = int32_t(result.outcome);
        if (bound_used != nullptr) *bound_used = result.worst;
        if (text == nullptr && length == nullptr && capacity == 0) return;
        give_text(result.text, text, capacity, length);
    });
}
