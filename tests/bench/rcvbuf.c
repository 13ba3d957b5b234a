/* Preloaded into programs that have no setting for it: every bound socket's receive buffer is $RCVBUF bytes. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <sys/socket.h>

static int force(int fd)
{
    int (*set)(int, int, int, const void *, socklen_t) = dlsym(RTLD_NEXT, "setsockopt");
    const char *wanted = getenv("RCVBUF");
    int size = wanted ? atoi(wanted) : 0;
    return size ? set(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof size) : 0;
}

int bind(int fd, const struct sockaddr *address, socklen_t length)
{
    int (*next)(int, const struct sockaddr *, socklen_t) = dlsym(RTLD_NEXT, "bind");
    int result = next(fd, address, length);
    force(fd);
    return result;
}

int setsockopt(int fd, int level, int name, const void *value, socklen_t length)
{
    int (*next)(int, int, int, const void *, socklen_t) = dlsym(RTLD_NEXT, "setsockopt");
    if (level == SOL_SOCKET && (name == SO_RCVBUF || name == SO_RCVBUFFORCE))
        return force(fd);
    return next(fd, level, name, value, length);
}
