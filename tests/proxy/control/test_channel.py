"""The control channel: whole messages in order, and an end that both sides see."""

import asyncio
import json
import socket
import struct
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.control.channel import BrokenChannel, open_channel, receive_first


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
        a.close()
        first, then = await b.receive(), await b.receive()
        b.send({"nobody": "hears"})
        return first, then

    assert talk(scenario) == ({"last": 1}, None)


def test_what_was_sent_has_left_before_a_channel_is_finished_with():
    """A worker's last counts: its loop ends right behind them."""

    async def scenario(a, b):
        a.send({"last": "x" * 3_000_000})
        finishing = asyncio.ensure_future(a.finish(30))
        await asyncio.sleep(0.05)
        assert not finishing.done()
        received = await b.receive()
        await finishing
        return len(received["last"])

    assert talk(scenario) == 3_000_000


def test_a_channel_whose_other_end_does_not_read_is_finished_with_after_its_time():
    async def scenario(a, b):
        a.send({"last": "x" * 3_000_000})
        await a.finish(0.05)
        a._writer.transport.abort()
        return True

    assert talk(scenario)


def test_a_message_cut_by_the_death_of_its_sender_is_the_end():
    async def scenario(a, b):
        a._writer.write(struct.pack("!I", 100) + b'{"half": ')
        a.close()
        return await b.receive()

    assert talk(scenario) is None


@given(st.lists(st.dictionaries(st.text(max_size=5), st.text(max_size=40), max_size=3), max_size=6), st.integers(1, 9))
def test_messages_are_whole_however_they_are_split_and_joined(messages, piece):
    async def scenario(a, b):
        data = b"".join(struct.pack("!I", len(text)) + text for text in (json.dumps(m).encode() for m in messages))
        for i in range(0, len(data), piece):
            a._writer.write(data[i : i + piece])
            await asyncio.sleep(0)
        a.close()
        return [await b.receive() for _ in messages], await b.receive()

    assert talk(scenario) == (messages, None)


@pytest.mark.parametrize("data", [b"\xff\xff\xff\xff", struct.pack("!I", 3) + b"nul", struct.pack("!I", 2) + b"[]"])
def test_what_is_no_message_is_said_to_be_none(data):
    async def scenario(a, b):
        a._writer.write(data)
        with pytest.raises(BrokenChannel):
            await b.receive()

    talk(scenario)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(data)
        with pytest.raises(BrokenChannel):
            receive_first(theirs)


def test_the_first_message_is_read_before_there_is_a_loop_and_leaves_the_next_ones():
    """A supervisor that reloads or stops while a worker boots sends right behind the first message."""
    ours, theirs = socket.socketpair()
    texts = [json.dumps(m).encode() for m in ({"config": "x" * 300_000}, {"do": "reload"}, {"do": "stop"})]
    data = b"".join(struct.pack("!I", len(text)) + text for text in texts)
    sender = threading.Thread(target=ours.sendall, args=(data,))
    sender.start()
    assert receive_first(theirs) == json.loads(texts[0])
    sender.join()

    async def rest():
        channel = await open_channel(theirs)
        received = [await channel.receive(), await channel.receive()]
        channel.close()
        return received

    assert asyncio.run(rest()) == [{"do": "reload"}, {"do": "stop"}]
    ours.close()


@pytest.mark.parametrize("sent", [b"", b"\0\0", struct.pack("!I", 9) + b"{"])
def test_an_end_before_the_first_message_is_over_is_the_end(sent):
    ours, theirs = socket.socketpair()
    ours.sendall(sent)
    ours.close()
    with theirs:
        assert receive_first(theirs) is None
