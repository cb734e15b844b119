#pragma once
// Cases in a process of their own, so that an access that ends it ends no more than that.
// Docs: docs/10-testing-your-engine.md

#include "tools/parity/parity.h"

#include <functional>
#include <span>
#include <string>
#include <vector>

namespace rotkv::tools {

/// What a process told of the cases that it ran.
struct ApartRun {
    std::vector<Column> columns;  ///< their names
    struct Row {
        std::string name;
        std::vector<CaseResult> cells;
    };
    std::vector<Row> rows;  ///< of the cases that ended

    std::string death;  ///< empty: it ran all; else the case and column that were begun, and why
};

/// Forks, and runs the cases there on the columns that are made there: a device and threads of this
/// process would not outlive the fork, so it must have computed nothing yet.
/// Throws: Error(usage) as make_columns does; Error(io) where no process can be made.
ApartRun run_apart(std::span<const std::string> names,
                   const std::function<std::vector<Column>()>& make_columns, Alignment alignment);

}  // namespace rotkv::tools
