"""The control channel: whole messages in order, and an end that both sides see."""

import asyncio
import json
import socket
import threading

from proxy.control.channel import open_channel, receive_first


def talk(scenario):
    async def main():
        ours, theirs = socket.socketpair()
        a, b = await open_channel(ours), await open_channel(theirs)
        try:
            return await asyncio.wait_for(scenario(a, b), 20)
        finally:
            a.close()
            b.close()

    return asyncio.run(main())


def test_messages_arrive_whole_and_in_order_whatever_their_size():
    async def scenario(a, b):
        sent = [{"n": n, "text": "\n\u2028é" * n} for n in (0, 1, 7, 100_000)]
        for message in sent:
            a.send(message)
        return sent, [await b.receive() for _ in sent]

    sent, received = talk(scenario)
    assert received == sent


def test_when_one_end_hangs_up_the_other_reads_the_end_and_may_still_send():
    async def scenario(a, b):
        a.send({"last": 1})
        await a.drain()
        a.close()
        first, then = await b.receive(), await b.receive()
        b.send({"nobody": "hears"})
        await b.drain()
        return first, then

    assert talk(scenario) == ({"last": 1}, None)


def test_a_message_cut_by_the_death_of_its_sender_is_the_end():
    async def scenario(a, b):
        a._writer.write(b'{"half": ')
        a.close()
        return await b.receive()

    assert talk(scenario) is None


def test_the_first_message_can_be_read_before_there_is_a_loop():
    ours, theirs = socket.socketpair()
    text = json.dumps({"config": "x" * 300_000}).encode() + b"\n"
    sender = threading.Thread(target=ours.sendall, args=(text,))
    sender.start()
    assert receive_first(theirs) == json.loads(text)
    sender.join()
    ours.close()
    assert receive_first(theirs) is None
    theirs.close()
