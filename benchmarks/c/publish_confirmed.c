/* The limit for confirmed publishing: librabbitmq, up to WINDOW messages without their confirm.
 *
 *   publish_confirmed HOST PORT EXCHANGE KEY BODY_FILE COUNT WINDOW                           */
#include <amqp.h>
#include <amqp_ssl_socket.h>
#include <amqp_tcp_socket.h>
#include "dial.h"
#include "meter.h"

static amqp_bytes_t text(const char *value) { return amqp_cstring_bytes(value); }

static amqp_table_entry_t header(const char *key, const char *value)
{
    amqp_table_entry_t entry = {.key = text(key)};
    entry.value.kind = AMQP_FIELD_KIND_UTF8;
    entry.value.value.bytes = text(value);
    return entry;
}

/* Takes one confirm; waits for it only if *must*. Returns 0 when there is none. */
static int confirm(amqp_connection_state_t connection, int must, long *confirmed)
{
    amqp_frame_t frame;
    struct timeval now = {0, 0};
    int status = amqp_simple_wait_frame_noblock(connection, &frame, must ? NULL : &now);
    if (status == AMQP_STATUS_TIMEOUT) return 0;
    if (status != AMQP_STATUS_OK) fail("confirm");
    if (frame.frame_type == AMQP_FRAME_METHOD && frame.payload.method.id == AMQP_BASIC_ACK_METHOD)
        *confirmed = ((amqp_basic_ack_t *)frame.payload.method.decoded)->delivery_tag;
    amqp_maybe_release_buffers(connection);
    return 1;
}

int main(int argc, char **argv)
{
    if (argc != 8) fail("HOST PORT EXCHANGE KEY BODY_FILE COUNT WINDOW");
    static char body[1 << 16];
    FILE *file = fopen(argv[5], "r");
    if (!file) fail(argv[5]);
    amqp_bytes_t content = {fread(body, 1, sizeof body, file), body};
    fclose(file);

    long count = atol(argv[6]), window = atol(argv[7]), confirmed = 0;
    amqp_table_entry_t headers[] = {header("application", "solution-cool"),
                                    header("origin", "webserver")};
    amqp_basic_properties_t properties = {
        ._flags = AMQP_BASIC_CONTENT_TYPE_FLAG | AMQP_BASIC_CONTENT_ENCODING_FLAG |
                  AMQP_BASIC_DELIVERY_MODE_FLAG | AMQP_BASIC_HEADERS_FLAG,
        .content_type = text("application/json"),
        .content_encoding = text("utf-8"),
        .delivery_mode = 2,
        .headers = {.num_entries = 2, .entries = headers},
    };
    amqp_connection_state_t connection = dial(argv[1], atoi(argv[2]), NULL);
    amqp_confirm_select(connection, 1);
    meter_start();
    for (long sent = 1; sent <= count; sent++) {
        if (amqp_basic_publish(connection, 1, text(argv[3]), text(argv[4]), 1, 0, &properties,
                               content))
            fail("publish");
        while (confirm(connection, sent - confirmed >= window, &confirmed)) {
        }
    }
    while (confirmed < count) confirm(connection, 1, &confirmed);
    meter_finish(count);
    return 0;
}
