#pragma once
// From a call to dispatches: which kernel, what it is told, how many threads. In operations.cpp the
// list of what is written, in launch_*.cpp each operation's own.
// Docs: docs/22-metal.md

#include "metal/args.h"
#include "metal/commands.h"
#include "ref/backend.h"

namespace rotkv::metal {

/// Yes, or what is missing.
Support answer(const Call& call);

/// `call` has passed answer().
void execute(Commands& commands, const Call& call);

// One pair for each operation that is written: what it cannot do, and its dispatches.

Support can(const HadamardArgs& args);
Support can(const QuantizeArgs& args);
Support can(const DequantizeArgs& args);
Support can(const RopeArgs& args);
Support can(const TurnArgs& args);
Support can(const RmsNormArgs& args);
Support can(const LayerNormArgs& args);
Support can(const ScaleArgs& args);
Support can(const ActMulArgs& args);
Support can(const AddArgs& args);
Support can(const MatmulArgs& args);
Support can(const LogitsArgs& args);
Support can(const EmbedArgs& args);
Support can(const KvStoreArgs& args);
Support can(const KvShiftArgs& args);
Support can(const AttentionArgs& args);
Support can(const MergeArgs& args);
Support can(const NllArgs& args);
Support can(const KldArgs& args);
Support can(const RouteArgs& args);
Support can(const ExpertMatmulArgs& args);
Support can(const ExpertSumArgs& args);
Support can(const ConvStepArgs& args);
Support can(const DeltaStepArgs& args);
void run(Commands& commands, const HadamardArgs& args);
void run(Commands& commands, const QuantizeArgs& args);
void run(Commands& commands, const DequantizeArgs& args);
void run(Commands& commands, const RopeArgs& args);
void run(Commands& commands, const TurnArgs& args);
void run(Commands& commands, const RmsNormArgs& args);
void run(Commands& commands, const LayerNormArgs& args);
void run(Commands& commands, const ScaleArgs& args);
void run(Commands& commands, const ActMulArgs& args);
void run(Commands& commands, const AddArgs& args);
void run(Commands& commands, const MatmulArgs& args);
void run(Commands& commands, const LogitsArgs& args);
void run(Commands& commands, const EmbedArgs& args);
void run(Commands& commands, const KvStoreArgs& args);
void run(Commands& commands, const KvShiftArgs& args);
void run(Commands& commands, const AttentionArgs& args);
void run(Commands& commands, const MergeArgs& args);
void run(Commands& commands, const NllArgs& args);
void run(Commands& commands, const KldArgs& args);
void run(Commands& commands, const RouteArgs& args);
void run(Commands& commands, const ExpertMatmulArgs& args);
void run(Commands& commands, const ExpertSumArgs& args);
void run(Commands& commands, const ConvStepArgs& args);
void run(Commands& commands, const DeltaStepArgs& args);

/// attention by f16 alone, of calls without rotations in f16 precision that have the tokens for it:
/// a row of which f16 does not hold a key or a value is NaN, which attention computes again.
void prefill(Commands& commands, const AttentionArgs& args);

// What the kernels' structs say of a call.

metal_args::Rows rows_of(const TensorView& tensor);
metal_args::Turn turn_of(const Rotation& rotation);

/// Registers of a lane for the channels that a simdgroup turns together.
uint32_t registers_of(const Rotation& rotation);

/// No where a block needs more registers than the kernel has.
Support block_up_to(const Rotation& rotation, uint32_t registers);

/// Is a cache of this type known to the kernels? attention chooses by its number.
bool is_cache_type_here(DType type);

/// "f16", as kernels are named.
std::string name_of(DType type);

}  // namespace rotkv::metal
