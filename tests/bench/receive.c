/* Receiver references: what reception costs in C.
 *
 * receive MODE GROUP PORT INTERFACE BUFFER OUTPUT
 *   recv      recv() and a write through a buffer of 64 KiB
 *   direct    recv() and a write(2) a datagram: for a pipe, whose reader wants it at once
 *   recvmmsg  recvmmsg() of 64 and a writev()
 *   gro       recv() of what UDP_GRO coalesced, and a write()
 *   times     no payload: a record of kernel time (ns, 8 bytes), length and segment length (4 each)
 * Says "ready", and after SIGTERM how much it received, and how much the kernel dropped.
 */
#define _GNU_SOURCE
#include "common.h"

#include <fcntl.h>
#include <sys/uio.h>

#define BATCH 64
#define LONGEST 65536
#define PIPE (1 << 20)

static int sock;
static volatile sig_atomic_t stopping;
static unsigned long long received, received_bytes;

static void stop(int number)
{
    (void)number;
    stopping = 1;
    shutdown(sock, SHUT_RD); /* wakes a blocked reader, and lets no later one block */
}

static void write_all(int out, const char *data, size_t left)
{
    while (left) {
        ssize_t done = write(out, data, left);
        if (done < 0)
            die("write");
        data += done;
        left -= done;
    }
}

static void receive_each(int out, int buffered)
{
    static char datagram[LONGEST];
    FILE *file = buffered ? fdopen(out, "a") : NULL;
    static char buffer[LONGEST];
    if (file)
        setvbuf(file, buffer, _IOFBF, sizeof buffer);
    while (!stopping) {
        ssize_t size = recv(sock, datagram, sizeof datagram, 0);
        if (stopping || size < 0)
            break;
        received++;
        received_bytes += size;
        if (file)
            fwrite(datagram, 1, size, file);
        else
            write_all(out, datagram, size);
    }
    if (file)
        fflush(file);
}

static void receive_batches(int out)
{
    static char arena[BATCH][LONGEST];
    static struct mmsghdr messages[BATCH];
    static struct iovec into[BATCH], from[BATCH];
    for (int i = 0; i < BATCH; i++) {
        into[i] = (struct iovec){arena[i], LONGEST};
        from[i].iov_base = arena[i];
        messages[i].msg_hdr.msg_iov = &into[i];
        messages[i].msg_hdr.msg_iovlen = 1;
    }
    while (!stopping) {
        int count = recvmmsg(sock, messages, BATCH, MSG_WAITFORONE, NULL);
        if (stopping || count < 0)
            break;
        for (int i = 0; i < count; i++) {
            from[i].iov_len = messages[i].msg_len;
            received_bytes += messages[i].msg_len;
        }
        received += count;
        if (writev(out, from, count) < 0)
            die("writev");
    }
}

static void receive_coalesced(int out)
{
    static char datagrams[LONGEST];
    int on = 1;
    if (setsockopt(sock, IPPROTO_UDP, UDP_GRO, &on, sizeof on))
        die("UDP_GRO");
    while (!stopping) {
        ssize_t size = recv(sock, datagrams, sizeof datagrams, 0);
        if (stopping || size < 0)
            break;
        received++; /* what was coalesced counts once here: the bytes tell */
        received_bytes += size;
        write_all(out, datagrams, size);
    }
}

struct record {
    uint64_t when;
    uint32_t size, segment;
};

static void receive_times(int out)
{
    static char arena[BATCH][LONGEST], controls[BATCH][256];
    static struct mmsghdr messages[BATCH];
    static struct iovec into[BATCH];
    static struct record records[BATCH];
    int on = 1;
    if (setsockopt(sock, IPPROTO_UDP, UDP_GRO, &on, sizeof on))
        die("UDP_GRO");
    if (setsockopt(sock, SOL_SOCKET, SO_TIMESTAMPNS, &on, sizeof on))
        die("SO_TIMESTAMPNS");
    while (!stopping) {
        for (int i = 0; i < BATCH; i++) {
            into[i] = (struct iovec){arena[i], LONGEST};
            messages[i].msg_hdr = (struct msghdr){
                .msg_iov = &into[i], .msg_iovlen = 1, .msg_control = controls[i], .msg_controllen = 256};
        }
        int count = recvmmsg(sock, messages, BATCH, MSG_WAITFORONE, NULL);
        if (stopping || count < 0)
            break;
        for (int i = 0; i < count; i++) {
            struct msghdr *header = &messages[i].msg_hdr;
            records[i] = (struct record){0, messages[i].msg_len, messages[i].msg_len};
            for (struct cmsghdr *c = CMSG_FIRSTHDR(header); c; c = CMSG_NXTHDR(header, c)) {
                if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_TIMESTAMPNS) {
                    struct timespec at;
                    memcpy(&at, CMSG_DATA(c), sizeof at);
                    records[i].when = at.tv_sec * SECOND + at.tv_nsec;
                } else if (c->cmsg_level == IPPROTO_UDP && c->cmsg_type == UDP_GRO) {
                    int segment;
                    memcpy(&segment, CMSG_DATA(c), sizeof segment);
                    records[i].segment = segment;
                }
            }
            received_bytes += messages[i].msg_len;
        }
        received += count;
        write_all(out, (char *)records, count * sizeof *records);
    }
}

int main(int argc, char **argv)
{
    if (argc != 7) {
        fprintf(stderr, "usage: receive MODE GROUP PORT INTERFACE BUFFER OUTPUT\n");
        return 2;
    }
    const char *mode = argv[1];
    sock = open_member(argv[2], atoi(argv[3]), argv[4], atoi(argv[5]));
    int out = open(argv[6], O_WRONLY | O_CREAT | O_APPEND, 0600); /* a pipe: waits for its reader */
    if (out < 0)
        die(argv[6]);
    fcntl(out, F_SETPIPE_SZ, PIPE); /* of a pipe: as the daemon does */
    struct sigaction action = {.sa_handler = stop};
    sigaction(SIGTERM, &action, NULL);
    puts("ready");
    fflush(stdout);
    if (!strcmp(mode, "recv"))
        receive_each(out, 1);
    else if (!strcmp(mode, "direct"))
        receive_each(out, 0);
    else if (!strcmp(mode, "recvmmsg"))
        receive_batches(out);
    else if (!strcmp(mode, "gro"))
        receive_coalesced(out);
    else if (!strcmp(mode, "times"))
        receive_times(out);
    else
        return 2;
    uint32_t memory[9] = {0};
    socklen_t length = sizeof memory;
    getsockopt(sock, SOL_SOCKET, SO_MEMINFO, memory, &length);
    printf("{\"received\": %llu, \"bytes\": %llu, \"dropped\": %u}\n", received, received_bytes, memory[8]);
    return 0;
}
