#include "tools/case_names.h"

#include "ref/cases/case.h"
#include "ref/error.h"

namespace rotkv::tools {

void require_case(const std::string& name) {
    try {
        make_case(name);
    } catch (const Error& error) {
        throw Error(ErrorCode::usage, error.what());
    }
}

}  // namespace rotkv::tools
