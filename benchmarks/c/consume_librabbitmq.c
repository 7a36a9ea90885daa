/* The limit with a library: librabbitmq, one Basic.Ack per message, plain or TLS.
 *
 *   consume_librabbitmq HOST PORT QUEUE PREFETCH COUNT [CA_FILE]                              */
#include <amqp.h>
#include <amqp_ssl_socket.h>
#include <amqp_tcp_socket.h>
#include "dial.h"
#include "meter.h"

int main(int argc, char **argv)
{
    if (argc < 6) fail("HOST PORT QUEUE PREFETCH COUNT [CA_FILE]");
    long count = atol(argv[5]);
    amqp_connection_state_t connection = dial(argv[1], atoi(argv[2]), argc > 6 ? argv[6] : NULL);
    amqp_basic_qos(connection, 1, 0, atoi(argv[4]), 0);
    amqp_basic_consume(connection, 1, amqp_cstring_bytes(argv[3]), amqp_empty_bytes, 0, 0, 0,
                       amqp_empty_table);
    for (long got = 0; got < count; got++) {
        amqp_envelope_t envelope;
        amqp_maybe_release_buffers(connection);
        if (amqp_consume_message(connection, &envelope, NULL, 0).reply_type != AMQP_RESPONSE_NORMAL)
            fail("consume");
        if (got == 0) meter_start();
        amqp_basic_ack(connection, 1, envelope.delivery_tag, 0);
        amqp_destroy_envelope(&envelope);
    }
    meter_finish(count);
    return 0;
}
