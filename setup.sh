#!/bin/sh
# Sets up whatever is missing: environment, locked dependencies, data folders. Run it again to mend a failed run.
here=${0%/*}
[ "$here" != "$0" ] || here=.
exec "$here/rumi" setup "$@"
