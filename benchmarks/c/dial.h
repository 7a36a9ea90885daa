/* A connection with one open channel by librabbitmq. */
#include <stdio.h>
#include <stdlib.h>

static void fail(const char *what)
{
    fprintf(stderr, "%s\n", what);
    exit(1);
}

static amqp_socket_t *socket_for(amqp_connection_state_t connection, const char *ca_file)
{
    if (!ca_file || !*ca_file) return amqp_tcp_socket_new(connection);
    amqp_socket_t *socket = amqp_ssl_socket_new(connection);
    if (amqp_ssl_socket_set_cacert(socket, ca_file)) fail("CA file");
    return socket;
}

static amqp_connection_state_t dial(const char *host, int port, const char *ca_file)
{
    amqp_connection_state_t connection = amqp_new_connection();
    if (amqp_socket_open(socket_for(connection, ca_file), host, port)) fail("connect");
    amqp_login(connection, "/", 0, 131072, 0, AMQP_SASL_METHOD_PLAIN, "guest", "guest");
    amqp_channel_open(connection, 1);
    if (amqp_get_rpc_reply(connection).reply_type != AMQP_RESPONSE_NORMAL) fail("login");
    return connection;
}
