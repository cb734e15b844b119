#include "tools/outlier_files.h"

#include "ref/files/output_file.h"

#include <fmt/format.h>
#include <xtensor/xadapt.hpp>
#include <xtensor/xnpy.hpp>

#include <algorithm>
#include <cmath>

namespace rotkv::tools {

using Json = nlohmann::ordered_json;
using What = CapturedRows::What;

namespace {

const char* name_of(What side) { return k_side_names[std::size_t(side)]; }

const char* word_of(Advice advice) {
    constexpr const char* k_words[] = {"rotate",       "indifferent", "hurts",
                                       "only_rotated", "only_plain",  "neither"};
    return k_words[std::size_t(advice)];
}

// ",row by law,row measured,output by law,output measured", empty where the head has no such type.
std::string csv_errors(const HeadSurvey& head, std::size_t rotation, const CacheType& type) {
    const std::vector<TypeErrors>& errors = head.rotations[rotation].errors;
    for (std::size_t i = 0; i < errors.size(); ++i) {
        if (errors[i].type() != type) continue;
        const ErrorPair row = errors[i].relative(), output = head.output_error(i, rotation);
        return fmt::format(",{},{},{},{}", row.predicted, row.measured, output.predicted,
                           output.measured);
    }
    return ",,,,";
}

}  // namespace

void write_csv(const std::string& path, const Survey& survey) {
    std::vector<CacheType> types = survey.plan().types_k;
    for (const CacheType& type : survey.plan().types_v) {
        if (std::find(types.begin(), types.end(), type) == types.end()) types.push_back(type);
    }
    std::string text =
        "layer,head,side,part,rotation,kurtosis,crest,mu,p4,offset,channel_ratio,loudest,norm,"
        "largest_row,k_bias_norm";
    for (const CacheType& type : types) {
        text += fmt::format(",{0}_predicted,{0}_measured,{0}_output_predicted,{0}_output_measured",
                            type.name());
    }
    text += "\n";
    for (const HeadSurvey& head : survey.heads()) {
        for (std::size_t r = 0; r < k_rotations; ++r) {
            const HeadFigures f = head.rotations[r].statistics.figures();
            text += fmt::format("{},{},{},{},{},{},{},{},{},{},{},{},{},{},{}", head.layer,
                                head.head, name_of(head.side), head.part.name, k_rotation_names[r],
                                f.kurtosis, f.crest, f.mu, f.p4, f.offset, f.channel_ratio,
                                f.loudest, f.norm, head.largest_row(),
                                head.k_bias_norm < 0 ? "" : fmt::format("{}", head.k_bias_norm));
            for (const CacheType& type : types) text += csv_errors(head, r, type);
            text += "\n";
        }
    }
    OutputFile file(path);
    file.write(text);
    file.finish();
}

namespace {

Json json_of_head(const HeadSurvey& head) {
    Json json = {{"layer", head.layer},
                 {"head", head.head},
                 {"side", name_of(head.side)},
                 {"part", head.part.name},
                 {"largest_row", head.largest_row()}};
    if (head.k_bias_norm >= 0) json["k_bias_norm"] = head.k_bias_norm;
    for (std::size_t r = 0; r < k_rotations; ++r) {
        const HeadFigures f = head.rotations[r].statistics.figures();
        Json& one = json[k_rotation_names[r]];
        one = {{"rows", f.rows},      {"kurtosis", f.kurtosis},
               {"crest", f.crest},    {"mu", f.mu},
               {"p4", f.p4},          {"offset", f.offset},
               {"norm", f.norm},      {"channel_ratio", f.channel_ratio},
               {"loudest", f.loudest}};
        const std::vector<TypeErrors>& errors = head.rotations[r].errors;
        for (std::size_t i = 0; i < errors.size(); ++i) {
            const ErrorPair row = errors[i].relative(), output = head.output_error(i, r);
            one["errors"][errors[i].type().name()] = {{"predicted", row.predicted},
                                                      {"measured", row.measured},
                                                      {"output_predicted", output.predicted},
                                                      {"output_measured", output.measured}};
        }
    }
    return json;
}

Json json_of_verdict(const SideAdvice& v) {
    Json decisive;
    if (v.has_gain()) {
        decisive = {
            {"layer", v.decisive_layer}, {"head", v.decisive_head}, {"part", v.decisive_part}};
    }
    return {{"side", name_of(v.side)},
            {"type", v.type.name()},
            {"rotation", k_rotation_names[v.rotation]},
            {"output_plain", v.plain.measured},
            {"output_rotated", v.rotated.measured},
            {"gain", std::exp(v.measured.value)},
            {"predicted_gain", std::exp(v.predicted.value)},
            {"log_gain_se", v.measured.error},
            {"heads", v.heads},
            {"worse_in", v.worse},
            {"not_numbers", {{"plain", v.plain_not_numbers}, {"rotated", v.rotated_not_numbers}}},
            {"decisive", decisive},
            {"gain_without", std::exp(v.without)},
            {"advice", word_of(v.advice)}};
}

}  // namespace

static Json json_of_layer(const Survey& survey, int64_t l) {
    const SurveyLayer& layer = survey.plan().at(l);
    Json json = {{"layer", l}, {"heads", layer.heads}, {"kv_heads", layer.kv_heads}};
    if (layer.kv_heads == 0) return json;
    json.update({{"d_k", layer.d_k}, {"d_v", layer.d_v}, {"v_in_k", layer.v_in_k}});
    if (layer.rows_of != l) json["reads"] = layer.rows_of;
    for (const What side : {What::k, What::v}) {
        json[std::string("block_") + name_of(side)] = layer.block(side);
    }
    return json;
}

Json json_of(const Survey& survey) {
    Json json;
    for (std::size_t l = 0; l < survey.plan().layers.size(); ++l) {
        json["layers"].push_back(json_of_layer(survey, int64_t(l)));
    }
    const SinkFigures sinks = survey.sinks();
    json["sinks"] = {{"heads", sinks.heads},
                     {"share", sinks.heads > 0 ? Json(sinks.share()) : Json()}};
    json["signs_seed"] = k_signs_seed;
    for (const HeadSurvey& head : survey.heads()) json["heads"].push_back(json_of_head(head));
    json["verdicts"] = Json::array();
    for (const What side : {What::k, What::v}) {
        for (std::size_t t = 0; t < survey.plan().types(side).size(); ++t) {
            for (std::size_t r = 1; r < k_rotations; ++r) {
                json["verdicts"].push_back(json_of_verdict(survey.verdict(side, t, r)));
            }
        }
    }
    return json;
}

void write_npy(const std::string& folder, const Survey& survey) {
    OutputFolder out(folder);
    for (std::size_t l = 0; l < survey.plan().layers.size(); ++l) {
        const SurveyLayer& layer = survey.plan().layers[l];
        for (const What side : {What::q, What::k, What::v}) {
            const std::vector<float>& rows = survey.rows(side, int64_t(l));
            if (rows.empty()) continue;  // it keeps a state, or reads another layer's
            const std::size_t heads = std::size_t(side == What::q ? layer.heads : layer.kv_heads);
            const std::size_t d = std::size_t(side == What::v ? layer.d_v : layer.d_k);
            const std::vector<std::size_t> shape = {rows.size() / heads / d, heads, d};
            out.write(fmt::format("layer{:02}.{}.npy", l, name_of(side)),
                      xt::dump_npy(xt::adapt(rows, shape)));
        }
    }
    out.finish();
}

}  // namespace rotkv::tools
