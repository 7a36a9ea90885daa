/* The limit: a consumer that parses AMQP frames by hand and does nothing else.
 *
 *   consume_raw HOST PORT QUEUE PREFETCH COUNT MULTIPLE
 *
 * MULTIPLE 1: one Basic.Ack with `multiple` per recv(); 0: one Basic.Ack frame per message, all of
 * a recv() in one send(). Prints what benchmarks/meter.py prints, over the same span: from the first
 * message to the COUNTth. */
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include "meter.h"

enum { METHOD = 1, BODY = 3, END = 0xCE, BUFFER = 1 << 20, FRAME_MAX = 131072 };

#define ID(class, method) ((class) << 16 | (method))
enum {
    START = ID(10, 10), START_OK = ID(10, 11), TUNE = ID(10, 30), TUNE_OK = ID(10, 31),
    OPEN = ID(10, 40), OPEN_OK = ID(10, 41), CLOSE = ID(10, 50), CHANNEL_OPEN = ID(20, 10),
    CHANNEL_OPEN_OK = ID(20, 11), CHANNEL_CLOSE = ID(20, 40), QOS = ID(60, 10), QOS_OK = ID(60, 11),
    CONSUME = ID(60, 20), CONSUME_OK = ID(60, 21), DELIVER = ID(60, 60), ACK = ID(60, 80)
};

static int connection;
static unsigned char output[BUFFER];
static size_t written, frame_start;

static void fail(const char *what) { fprintf(stderr, "consume_raw: %s\n", what); exit(1); }

static void flush(void)
{
    for (size_t sent = 0; sent < written;) {
        ssize_t n = send(connection, output + sent, written - sent, 0);
        if (n <= 0) fail("send");
        sent += n;
    }
    written = 0;
}

static void put8(unsigned value) { output[written++] = value; }
static void put16(unsigned value) { put8(value >> 8); put8(value & 255); }
static void put32(uint32_t value) { put16(value >> 16); put16(value & 65535); }
static void put64(uint64_t value) { put32(value >> 32); put32((uint32_t)value); }

static void put_bytes(const char *bytes, size_t size)
{
    memcpy(output + written, bytes, size);
    written += size;
}

static void put_short_string(const char *text) { put8(strlen(text)); put_bytes(text, strlen(text)); }

static void begin(unsigned channel, unsigned id)
{
    put8(METHOD);
    put16(channel);
    frame_start = written;
    put32(0);
    put32(id);
}

static void end(void)
{
    size_t here = written;
    written = frame_start;
    put32(here - frame_start - 4);
    written = here;
    put8(END);
}

static void ack(uint64_t tag, int multiple)
{
    if (written > sizeof output - 64) flush();
    begin(1, ACK);
    put64(tag);
    put8(multiple);
    end();
}

static void answer_start(void)
{
    static const char login[] = "\0guest\0guest";
    begin(0, START_OK);
    put32(0); /* no client properties */
    put_short_string("PLAIN");
    put32(sizeof login - 1);
    put_bytes(login, sizeof login - 1);
    put_short_string("en_US");
    end();
    flush();
}

static void answer_tune(void)
{
    begin(0, TUNE_OK); put16(2047); put32(FRAME_MAX); put16(0); end();
    begin(0, OPEN); put_short_string("/"); put_short_string(""); put8(0); end();
    flush();
}

static void consume(const char *queue)
{
    begin(1, CONSUME);
    put16(0);
    put_short_string(queue);
    put_short_string("");
    put8(0);
    put32(0);
    end();
    flush();
}

static uint32_t read32(const unsigned char *at)
{
    return (uint32_t)at[0] << 24 | at[1] << 16 | at[2] << 8 | at[3];
}

static uint64_t tag_of(const unsigned char *deliver)
{
    const unsigned char *tag = deliver + 4 + 1 + deliver[4]; /* behind the consumer tag */
    return (uint64_t)read32(tag) << 32 | read32(tag + 4);
}

static void handshake(uint32_t id, const char *queue, int prefetch)
{
    switch (id) {
    case START: answer_start(); break;
    case TUNE: answer_tune(); break;
    case OPEN_OK: begin(1, CHANNEL_OPEN); put_short_string(""); end(); flush(); break;
    case CHANNEL_OPEN_OK:
        begin(1, QOS); put32(0); put16(prefetch); put8(0); end(); flush();
        break;
    case QOS_OK: consume(queue); break;
    case CLOSE: fail("the broker closed the connection");
    case CHANNEL_CLOSE: fail("the broker closed the channel");
    }
}

static void dial(const char *host, int port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    int on = 1;
    inet_pton(AF_INET, host, &address.sin_addr);
    connection = socket(AF_INET, SOCK_STREAM, 0);
    setsockopt(connection, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (connect(connection, (void *)&address, sizeof address)) fail("connect");
    put_bytes("AMQP\0\0\x09\x01", 8);
    flush();
}

int main(int argc, char **argv)
{
    if (argc != 7) fail("HOST PORT QUEUE PREFETCH COUNT MULTIPLE");
    const char *queue = argv[3];
    int prefetch = atoi(argv[4]), multiple = atoi(argv[6]);
    long count = atol(argv[5]), got = 0;
    static unsigned char input[BUFFER];
    size_t have = 0;
    uint64_t tag = 0, done = 0;

    dial(argv[1], atoi(argv[2]));
    while (got < count) {
        ssize_t n = recv(connection, input + have, sizeof input - have, 0);
        if (n <= 0) fail("recv");
        have += n;
        size_t at = 0;
        long before = got;
        while (got < count && have - at >= 8) {
            unsigned char *frame = input + at;
            size_t size = read32(frame + 3) + 8;
            if (have - at < size) break;
            at += size;
            if (frame[0] == BODY) {
                if (got++ == 0) meter_start();
                done = tag; /* not before the body: the next recv() may bring it */
                if (!multiple) ack(done, 0);
            } else if (frame[0] == METHOD && read32(frame + 7) == DELIVER) {
                tag = tag_of(frame + 7);
            } else if (frame[0] == METHOD) {
                handshake(read32(frame + 7), queue, prefetch);
            }
        }
        if (multiple && got > before) ack(done, 1);
        flush();
        memmove(input, input + at, have - at);
        have -= at;
    }
    meter_finish(count);
    return 0;
}
