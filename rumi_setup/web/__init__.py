"""The setup wizard: a few pages on loopback for whoever would rather click than type.

Standard library only and parsed by Python 3.9, like the core it stands on. `gate` decides who may ask, `wizard` acts,
`pages` turns what is known into HTML, `server` carries it. There is no script in any page.
"""
