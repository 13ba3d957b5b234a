/* LD_PRELOAD: have one call in a process fail for want of something, as the file $SHORTAGE says.

The file is shared memory: which call from now on is to fail (0: none), with which errno, whether all after it fail too,
how many there were, and the name of the last that failed. Those counted give a descriptor, memory or a thread. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

struct control {
    atomic_int nth, error, lasting, count, failed;
    char name[32];
};
static struct control *control;

__attribute__((constructor)) static void attach(void) {
    const char *path = getenv("SHORTAGE");
    int fd = path ? (int)syscall(SYS_openat, AT_FDCWD, path, O_RDWR | O_CLOEXEC) : -1;
    if (fd < 0) return;
    void *memory = (void *)syscall(SYS_mmap, NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    syscall(SYS_close, fd);
    if (memory != MAP_FAILED) control = memory;
}

static int fails(const char *name) {
    if (!control || !atomic_load(&control->nth)) return 0;
    int count = atomic_fetch_add(&control->count, 1) + 1, nth = atomic_load(&control->nth);
    if (count != nth && !(atomic_load(&control->lasting) && count > nth)) return 0;
    strncpy(control->name, name, sizeof control->name - 1);
    atomic_fetch_add(&control->failed, 1);
    return 1;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define FAIL(name) if (fails(name)) { errno = atomic_load(&control->error); return -1; }

#define OPEN(name) \
    int name(const char *path, int flags, ...) { \
        va_list rest; va_start(rest, flags); mode_t mode = va_arg(rest, mode_t); va_end(rest); \
        FAIL(#name) \
        return ((int (*)(const char *, int, ...))dlsym(RTLD_NEXT, #name))(path, flags, mode); }
OPEN(open)
OPEN(open64)

int openat(int directory, const char *path, int flags, ...) {
    va_list rest; va_start(rest, flags); mode_t mode = va_arg(rest, mode_t); va_end(rest);
    FAIL("openat") return REAL(openat)(directory, path, flags, mode);
}

#define CALL(name, parameters, arguments) int name parameters { FAIL(#name) \
    return ((int (*) parameters)dlsym(RTLD_NEXT, #name)) arguments; }
CALL(socket, (int family, int kind, int protocol), (family, kind, protocol))
CALL(socketpair, (int family, int kind, int protocol, int fds[2]), (family, kind, protocol, fds))
CALL(accept4, (int fd, void *address, void *size, int flags), (fd, address, size, flags))
CALL(eventfd, (unsigned value, int flags), (value, flags))
CALL(epoll_create1, (int flags), (flags))
CALL(pipe2, (int fds[2], int flags), (fds, flags))
CALL(setsockopt, (int fd, int level, int name, const void *value, unsigned size), (fd, level, name, value, size))

int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*run)(void *), void *argument) {
    if (fails("pthread_create")) return EAGAIN;
    return REAL(pthread_create)(thread, attributes, run, argument);
}
