# ./dev docs: the words of dev, which reads this file, are known here.
# Docs: docs/CONTRIBUTING.md

docs() {  # [--browser [FOLDER FOR PICTURES]]
    local packages=$root/build/site_packages python
    need_pip
    need doxygen=doxygen
    python=$(python_with pip)
    if ! cmp -s docs/site/requirements.txt "$packages/requirements.txt"; then
        rm -rf "$packages"
        $python -m pip --disable-pip-version-check install --quiet --target "$packages" \
            -r docs/site/requirements.txt
        cp docs/site/requirements.txt "$packages"
    fi
    configure release ON  # with the Python package, whose stubs are a part of the reference
    cmake --build build/release --target rotkv-stub >&2
    playground
    mkdir -p build/site_source
    # Not --quiet: to that, a link that leads nowhere is no error.
    PYTHONPATH=$packages NO_MKDOCS_2_WARNING=1 $python -m mkdocs build -f docs/site/mkdocs.yml >&2
    [ "${1:-}" != --browser ] || ! command -v apt-get > /dev/null || need chromium=chromium
    PYTHONPATH=$packages $python docs/site/poster.py build/site || [ $? = 77 ]
    say "build/site/index.html"
    [ "${1:-}" = --browser ] || return 0
    PYTHONPATH=$packages $python docs/site/test_site.py build/site "${@:2}" || [ $? = 77 ]
    python=$(python_with numpy)
    $python tests/test_playground.py build/release || [ $? = 77 ]
    PYTHONPATH=$packages $python docs/site/test_playground.py build/site build/release "${@:2}" || [ $? = 77 ]
}

playground() {  # ref/ as WebAssembly, for one page of the site
    ! command -v apt-get > /dev/null || (need emcc=emscripten) || true
    if command -v emcc > /dev/null; then
        tools/playground/wasm.sh build/release >&2
    else
        say 'the playground: skipped, no emcc; its page will say so'
        rm -rf build/playground
    fi
}
