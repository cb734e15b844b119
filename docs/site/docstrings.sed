# Docstrings as doxygen wants them. C++: "Math:", "Shapes:" and the like begin a paragraph of their own.
s|/// \([A-Z][a-z]*: \)|///\n/// \1|
# C: a comment on a line of its own speaks of what follows, one behind a declaration of what stands before it.
s|^/\* |/** |
s|\([;,(]\) */\* |\1 /**< |
