/* What the programs of the benchmarks share: clocks, errors, a member's socket. */
#ifndef COMMON_H
#define COMMON_H

#include <arpa/inet.h>
#include <errno.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/udp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#endif
#ifndef UDP_GRO
#define UDP_GRO 104
#endif
#ifndef SO_MEMINFO
#define SO_MEMINFO 55
#endif

#define SECOND 1000000000LL

static inline void die(const char *what)
{
    perror(what);
    exit(1);
}

static inline int64_t clock_ns(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return now.tv_sec * SECOND + now.tv_nsec;
}

/* Sleep to a point of CLOCK_MONOTONIC. */
static inline void sleep_until(int64_t deadline)
{
    struct timespec at = {deadline / SECOND, deadline % SECOND};
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, NULL) == EINTR)
        ;
}

static inline struct sockaddr_in address_of(const char *group, int port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    if (inet_pton(AF_INET, group, &address.sin_addr) != 1) {
        fprintf(stderr, "not an IPv4 address: %s\n", group);
        exit(2);
    }
    return address;
}

static inline int ifindex_of(const char *interface)
{
    int index = if_nametoindex(interface);
    if (!index)
        die(interface);
    return index;
}

/* A socket that is a member of the group on the interface, bound to the group, with a buffer of that size. */
static inline int open_member(const char *group, int port, const char *interface, int buffer)
{
    int fd = socket(AF_INET, SOCK_DGRAM, 0), on = 1;
    struct sockaddr_in address = address_of(group, port);
    struct ip_mreqn membership = {.imr_multiaddr = address.sin_addr, .imr_ifindex = ifindex_of(interface)};
    if (fd < 0)
        die("socket");
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &buffer, sizeof buffer))
        die("SO_RCVBUFFORCE");
    if (bind(fd, (struct sockaddr *)&address, sizeof address))
        die("bind");
    if (setsockopt(fd, IPPROTO_IP, IP_ADD_MEMBERSHIP, &membership, sizeof membership))
        die("IP_ADD_MEMBERSHIP");
    return fd;
}

/* A socket that sends multicast on the interface, to the link only. */
static inline int open_sender(const char *interface)
{
    int fd = socket(AF_INET, SOCK_DGRAM, 0), buffer = 8 << 20;
    struct ip_mreqn outgoing = {.imr_ifindex = ifindex_of(interface)};
    if (fd < 0)
        die("socket");
    if (setsockopt(fd, IPPROTO_IP, IP_MULTICAST_IF, &outgoing, sizeof outgoing))
        die("IP_MULTICAST_IF");
    setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &buffer, sizeof buffer);
    return fd;
}

#endif
