#include "tools/rotation_of_both.h"

#include "tools/rotation_flags.h"

#include <string_view>

namespace rotkv::tools {

std::string rotation_choices_of_both() { return rotation_choices() + ", or calibrated:PREFIX"; }

std::optional<RotationRequest> find_rotation_of_both(const std::string& origin,
                                                     const std::string& text) {
    constexpr std::string_view k_two_files = "calibrated:";
    if (text.starts_with(k_two_files) && text.size() > k_two_files.size()) {
        const std::string file = "file:" + text.substr(k_two_files.size());
        return RotationRequest{.k = *find_rotation(origin, file + "-k.npy"),
                               .v = *find_rotation(origin, file + "-v.npy")};
    }
    if (const auto side = find_rotation(origin, text)) return RotationRequest::both(*side);
    return std::nullopt;
}

}  // namespace rotkv::tools
