/* The reference for many receivers: one thread, a socket and a file each, and one epoll for all.
 *
 * crowd COUNT GROUP PORT INTERFACE DIRECTORY TICK
 *   GROUP      and PORT of the first socket; each further one has the next of both
 *   DIRECTORY  of the files 0, 1, ..., to which datagrams are appended as they are
 *   TICK       ns: after it has emptied what was ready it sleeps to the next multiple of this, so that several
 *              datagrams gather
 * Says "ready", and ends by SIGTERM.
 */
#define _GNU_SOURCE
#include "common.h"

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/uio.h>

#define BATCH 64
#define LONGEST 2048
#define BUFFER (4 << 20) /* bytes: as the daemon has it */
#define READY 256

static struct mmsghdr messages[BATCH];
static struct iovec into[BATCH], from[BATCH];

static void empty(int sock, int out)
{
    int count;
    do {
        count = recvmmsg(sock, messages, BATCH, MSG_DONTWAIT, NULL);
        if (count < 0 && errno != EAGAIN)
            die("recvmmsg");
        for (int i = 0; i < count; i++)
            from[i].iov_len = messages[i].msg_len;
        if (count > 0 && writev(out, from, count) < 0)
            die("writev");
    } while (count == BATCH);
}

int main(int argc, char **argv)
{
    static char arena[BATCH][LONGEST];
    if (argc != 7) {
        fprintf(stderr, "usage: crowd COUNT GROUP PORT INTERFACE DIRECTORY TICK\n");
        return 2;
    }
    int count = atoi(argv[1]), port = atoi(argv[3]), ready = epoll_create1(0);
    uint32_t first = ntohl(address_of(argv[2], port).sin_addr.s_addr);
    int64_t tick = atoll(argv[6]);
    int *socks = calloc(count, sizeof *socks), *outs = calloc(count, sizeof *outs);
    for (int i = 0; i < BATCH; i++) {
        into[i] = (struct iovec){arena[i], LONGEST};
        from[i].iov_base = arena[i];
        messages[i].msg_hdr.msg_iov = &into[i];
        messages[i].msg_hdr.msg_iovlen = 1;
    }
    if (chdir(argv[5]))
        die(argv[5]);
    for (int i = 0; i < count; i++) {
        struct in_addr group = {htonl(first + i)};
        char name[16];
        snprintf(name, sizeof name, "%d", i);
        socks[i] = open_member(inet_ntoa(group), port + i, argv[4], BUFFER);
        outs[i] = open(name, O_WRONLY | O_CREAT | O_APPEND, 0600);
        struct epoll_event wanted = {.events = EPOLLIN, .data.u32 = i};
        if (outs[i] < 0 || epoll_ctl(ready, EPOLL_CTL_ADD, socks[i], &wanted))
            die(name);
    }
    prctl(PR_SET_TIMERSLACK, 1);
    puts("ready");
    fflush(stdout);
    for (;;) {
        struct epoll_event found[READY];
        int number = epoll_wait(ready, found, READY, -1);
        if (number < 0 && errno != EINTR)
            die("epoll_wait");
        for (int i = 0; i < number; i++)
            empty(socks[found[i].data.u32], outs[found[i].data.u32]);
        if (number < READY)
            sleep_until((clock_ns(CLOCK_MONOTONIC) / tick + 1) * tick);
    }
}
