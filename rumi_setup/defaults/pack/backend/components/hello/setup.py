"""Runs once inside the sandbox, when the Pack starts, and registers what this component provides."""

NAME = {"type": "string", "minLength": 1, "maxLength": 100}


def hello(args, ctx):
    """`args` is the caller's data; `ctx` tells who calls (`caller`), how long there is (`deadline_s`) and more."""
    return {"message": f"Hello, {args.get('name', 'World')}!"}


def run(context):
    context["interface_registry"].register_handler(
        "__pack_id__.hello",
        hello,
        input_schema={"type": "object", "properties": {"name": NAME}, "additionalProperties": False},
        output_schema={"type": "object", "required": ["message"]},
    )
