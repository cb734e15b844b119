"""What rotkv and llama.cpp knowingly make differently of a file's metadata."""

# Kinds of disagreement.
REFUSES, TAKES, TOKENS, NUMBERS = (
    "only rotkv refuses", "only llama.cpp refuses", "other tokens", "other numbers")

# (kinds, regular expression that a changed key and its change match, reason)
READ = (r"general.architecture|tokenizer.ggml.(model|pre|tokens|token_type|merges|(bos|eos)_token_id|"
        r"add_(bos|eos)_token|add_space_prefix)|\w+\.(block_count|context_length|embedding_length|"
        r"feed_forward_length|expert_count|attention.(causal|head_count(_kv)?|(key|value)_length|"
        r"layer_norm_rms_epsilon)|rope.(dimension_count|freq_base|scale_linear|scaling.(type|factor|"
        r"attn_factor|original_context_length)))|"
        r"gemma3\.(attention.sliding_window(_pattern)?|final_logit_softcapping|rope.freq_base_swa)")
DEPARTURES = [
    ((TAKES,), r".*: (list )?(as|of) (u8|i8|i16|u16|u32|i32|u64|i64)",
     "an integer may have any type in which its value fits"),
    ((TAKES,), r"(?!(%s): ).*" % READ,
     "a key that rotkv has no use for may have any type and value"),
    ((TAKES,), r"[\w-]+.context_length: .*",
     "the server, unlike llama-perplexity, keeps its windows below the training length"),
    ((REFUSES,), r"[\w-]+.(rope.dimension_count|attention.(key|value)_length)_swa: .*",
     "an extent beyond 2^28 is refused before it is known whether a layer has a window"),
    ((REFUSES,), r"[\w-]+.attention.sliding_window_pattern: list.*",
     "a list of yes and no has no other numbers"),
    ((REFUSES,), r"[\w-]+.attention.sliding_window_pattern: (2\^31|2\^32-1|largest)",
     "a period beyond 2^28 is no model's"),
    ((REFUSES,), r"gemma3.(rope.dimension_count|attention.(key|value)_length)_swa: .*|"
                 r"rope.scaling: .* and rope.dimension_count_swa",
     "layers with a window have the heads and the RoPE width of the others here"),
    ((REFUSES,), r"[\w-]+.rope.(scale_linear|scaling.(factor|attn_factor)): (negative|0|nan|inf)",
     "a factor that turns backwards or not at all is no model's"),
    ((REFUSES,), r"[\w-]+.attention.layer_norm_rms_epsilon: 0",
     "without an epsilon a row of zeros is not a number after its norm"),
    ((REFUSES,), r"gemma3.final_logit_softcapping: (negative|nan|inf)",
     "a negative cap is that of its size to llama.cpp, and a mistake to rotkv"),
    ((REFUSES,), r"[\w-]+.rope.dimension_count: (2\^31|2\^32-1|largest)",
     "llama.cpp takes an extent beyond 2^31 for a negative one and turns nothing"),
    ((REFUSES,), r"tokenizer.ggml.token_type: one more",
     "a list of token types has one for each token"),
    ((NUMBERS,), r"[\w-]+.rope.(freq_base|freq_base_swa|scale_linear|scaling.factor): (1e-30|1e30)",
     "angles beyond what f32 resolves: everybody rounds his own"),
    ((REFUSES,), r"[\w-]+.rope.scaling.original_context_length: (2\^31|2\^32-1|largest)",
     "an extent beyond 2^28 is no model's"),
    ((REFUSES,), r"[\w-]+.rope.scaling.original_context_length: 0",
     "llama.cpp takes 0 for the training length"),
    ((TAKES,), r"tokenizer.ggml.model: 'llama'",
     "where bytes have no token llama.cpp fails; rotkv takes the unknown token and says so"),
    ((TAKES,), r"tokenizer.ggml.add_eos_token: .*",
     "llama-perplexity asserts that a text gets no EOS; rotkv gives it none and says so"),
    ((REFUSES,), r"[\w-]+.attention.causal: .*",
     "a model whose tokens see later ones is not computed here"),
    ((TAKES,), r"[\w-]+.attention.(key|value)_length: list of its type",
     "a list of equal numbers, one a layer, is that number"),
    ((REFUSES,), r"[\w-]+.((expert_)?feed_forward_length|attention.head_count(_kv)?): "
                 r"list, last is 1",
     "llama.cpp takes the first layer's number for all; here a list must fit the tensors"),
    ((REFUSES,), r"[\w-]+.(rope.freq_base(_swa)?|attention.layer_norm_rms_epsilon): (inf|nan)",
     "what is not finite is no number of a model"),
    ((REFUSES,), r"tokenizer.ggml.scores: list of .*",
     "scores are f32; llama.cpp reads other types' bytes as if they were"),
    ((TAKES,), r"gemma3.attention.sliding_window_pattern: (1|halved)",
     "with a period of 1 no layer has a window, where llama.cpp gives up"),
    ((TAKES,), r"general.architecture: renamed .*",
     "matrices and norms that are in the file are applied in every architecture; llama.cpp counts "
     "the tensors that it does not expect"),
    ((NUMBERS,), r"rope.scaling: none of 4 and .*|[\w-]+.rope.scaling.type: 'none'",
     "a RoPE that is not scaled is so in every layer; llama.cpp scales those with a window"),
    ((REFUSES,), r"(llama4|exaone4).*longrope.*|rope.scaling: longrope of 4 and .*",
     "RoPE factors for every context have no place in longrope"),
    ((REFUSES,), r"mistral3.rope.scaling.yarn_beta_(fast|slow): (0|negative)",
     "a pair turns more than no times in a context"),
    ((REFUSES,), r"(glm4|glm4moe).rope.dimension_sections: .*|"
                 r"rope.scaling: .* and rope.dimension_sections",
     "positions of pictures belong to a model that is not one of text alone"),
    ((REFUSES,), r"qwen35(moe)?.rope.dimension_sections: .*",
     "pairs of the fourth position would stand still in a text, which no such model has"),
    ((REFUSES,), r"llama4.expert_used_count: .*",
     "a weight on its input is that of one expert; llama4 has no other models"),
    ((REFUSES,), r"[\w-]+.expert_weights_scale: (negative|nan|inf)",
     "experts that take back what they say are no model's"),
    ((REFUSES,), r"[\w-]+.(expert_)?feed_forward_length: (2\^31|2\^32-1|largest)",
     "an extent beyond 2^28 is no model's, be it one that no layer has"),
    ((REFUSES,), r"deepseek2.attention.value_length: .*",
     "a latent row has the extents that its parts add up to"),
    ((REFUSES,), r"[\w-]+.rope.scaling.yarn_log_multiplier: negative",
     "a magnitude that falls as positions are stretched is no model's"),
    ((REFUSES,), r"cohere2.rope.dimension_count: .*",
     "all channels of a head turn in this architecture"),
]
