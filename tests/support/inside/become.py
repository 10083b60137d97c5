"""A component that ends its Pack's agent at once: the process goes on as ``program.py`` beside it, which holds the bus.

What the agent had read and not yet handled goes along, so that the program begins exactly where the agent stopped; so
does the second socket, over which memory files go, with how many the agent had sent.
"""

import os
import sys


def run(_context):
    # until exec nothing may let another thread of the agent read: no switch of threads, no call that lets go of the lock
    sys.setswitchinterval(60)
    module = sys.modules.get("container_agent") or sys.modules["__main__"]
    current = module.CURRENT.get()
    agent = current.agent
    rest = bytes(agent.view[agent.head : agent.tail]).hex()
    link = agent.link
    way = [link.sock.fileno()] if hasattr(link, "sock") else [link.fd, link.write_fd]  # over stdio there are two
    second, given = (agent.files.sock.fileno(), agent.files.given) if agent.files is not None else (-1, 0)
    for one in (*way, second):
        if one >= 0:
            os.set_inheritable(one, True)
    program = __file__.rpartition("/")[0] + "/program.py"
    os.execv("/proc/self/exe", ["python3", "-I", program, ",".join(map(str, way)), str(current.id), rest, str(second), str(given)])
