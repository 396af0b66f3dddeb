"""One pynng socket that does what its standard input says, and answers each command with one line.

    peer.py <kind> <listen|dial> <address> [<option>=<milliseconds> ...]

connected         waits for a connection                    -> connected
subscribe <topic> sub only                                  -> subscribed
survey-time <ms>  surveyor only                             -> set
send <text>       sends it                                  -> sent
recv              receives                                  -> got <text>
recv <ms>         the same, waiting this long at most       -> got <text>  |  timed out
send-block <n>    sends the n bytes of block(n)             -> sent
recv-block <n>    receives and compares with block(n)       -> same  |  different: <what>
send-numbers <n>  sends the texts "0" to "n-1"              -> sent
recv-numbers <n>  receives them, in order                   -> same  |  different: <what>
"""

import os
import sys
import time

import pynng

KINDS = {
    "pair": pynng.Pair0,
    "push": pynng.Push0,
    "pull": pynng.Pull0,
    "req": pynng.Req0,
    "rep": pynng.Rep0,
    "pair1": pynng.Pair1,
    "pub": pynng.Pub0,
    "sub": pynng.Sub0,
    "surveyor": pynng.Surveyor0,
    "respondent": pynng.Respondent0,
    "bus": pynng.Bus0,
}


def block(size):
    return (bytes(range(251)) * (size // 251 + 1))[:size]


def compared(got, expected):
    if got == expected:
        return "same"
    return f"different: {len(got)} bytes {got[:20]!r} for {len(expected)} bytes {expected[:20]!r}"


def numbers(socket, count):
    for number in range(count):
        result = compared(socket.recv(), b"%d" % number)
        if result != "same":
            return f"{result}, at number {number}"
    return "same"


def obey(socket, command, argument):
    if command == "connected":
        # It has no way to wait for that.
        while not socket.pipes:
            time.sleep(0.005)
        return "connected"
    if command == "subscribe":
        socket.subscribe(argument.encode())
        return "subscribed"
    if command == "survey-time":
        socket.survey_time = int(argument)
        return "set"
    if command == "send":
        socket.send(argument.encode())
        return "sent"
    if command == "recv":
        socket.recv_timeout = int(argument) if argument else -1
        return "got " + socket.recv().decode()
    if command == "send-block":
        socket.send(block(int(argument)))
        return "sent"
    if command == "recv-block":
        return compared(socket.recv_msg().bytes, block(int(argument)))
    if command == "send-numbers":
        for number in range(int(argument)):
            socket.send(b"%d" % number)
        return "sent"
    if command == "recv-numbers":
        return numbers(socket, int(argument))
    raise ValueError(command)


def secured(way):
    """TLS with the certificates in the folder that the environment names, if it does."""
    folder = os.environ.get("SP_TLS")
    if folder is None:
        return None
    if way == "listen":
        return pynng.TLSConfig(pynng.TLSConfig.MODE_SERVER, cert_key_file=f"{folder}/both.pem")
    return pynng.TLSConfig(
        pynng.TLSConfig.MODE_CLIENT,
        server_name="localhost",
        ca_files=[f"{folder}/authority.pem"],
        auth_mode=pynng.TLSConfig.AUTH_MODE_REQUIRED,
    )


def main():
    kind, way, address, *options = sys.argv[1:]
    options = {name: int(value) for name, value in (option.split("=") for option in options)}
    # No limit on what it receives, as the SDKs do.
    with KINDS[kind](recv_max_size=0, **options) as socket:
        if config := secured(way):
            socket.tls_config = config
        if way == "listen":
            socket.listen(address)
        else:
            socket.dial(address, block=True)
        print("ready", flush=True)
        for line in sys.stdin:
            command, _, argument = line.rstrip("\n").partition(" ")
            try:
                print(obey(socket, command, argument), flush=True)
            except pynng.Timeout:
                print("timed out", flush=True)


main()
