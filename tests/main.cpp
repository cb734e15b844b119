// The main function of the test binary where Catch2 is version 2, which has none to link.
#define CATCH_CONFIG_MAIN
#include <catch2/catch.hpp>
