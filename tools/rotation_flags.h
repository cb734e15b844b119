#pragma once
// Rotations at the border of a tool: as flags, variants and the environment ask for them, and as
// JSON reports them.
// Docs: docs/04-kv-cache.md

#include "ref/rotation_policy.h"

#include <nlohmann/json.hpp>

#include <optional>
#include <string>

namespace rotkv::tools {

/// What every word that asks for a rotation may be, for --help and for errors.
std::string rotation_choices();

/// What a word asks of one side, by a rotation that kernels compute or by matrices; nothing where
/// it is neither. `origin` asks. The one place where all tools read such a word.
/// Throws: as find_matrix_source(), Error(usage) with the origin in front.
std::optional<RotationRequest::PerSide> find_rotation(const std::string& origin,
                                                      const std::string& text);

/// What `flag` says of one side. Throws Error(usage) naming the flag.
RotationRequest::PerSide parse_rotation_flag(const std::string& flag, const std::string& text);

/// A rotation of both sides, as its flag spells it.
struct AskedRotation {
    std::string text;
    RotationRequest request;
};
AskedRotation parse_asked_rotation(const std::string& flag, const std::string& text);

/// A request from the environment: LLAMA_ATTN_ROT_DISABLE (both sides, read with atoi as llama.cpp
/// does), then LLAMA_ATTN_ROT_K_OVERRIDE and _V_OVERRIDE (0 off, 1 on), which win over it.
/// Throws Error(usage) for an override that is neither.
RotationRequest rotation_from_environment();

/// Says on stderr what LLAMA_ATTN_ROT_DISABLE counts as where that is not what it seems to say:
/// atoi reads "true" as 0.
void note_on_environment(const std::string& tool);

/// Throws Error(usage), beginning with `where`, if the request has signs that neither side takes:
/// one that is off, one whose type the policy leaves alone, one that names its own seed.
void require_use_of_signs(const std::string& where, const RotationRequest& request,
                          const CacheType& type_k, const CacheType& type_v);

/// {"k": {kind, block, seed, reason}, "v": ...}; a list of them, one a layer, where layers differ.
nlohmann::ordered_json json_of(const RotationSpec& spec);

}  // namespace rotkv::tools
