"""The setup system without its faces: standard library only, parsed and run by Python 3.9."""
