/* Keeps every processor awake that this process may run on, until it is ended: a thread for each, at SCHED_IDLE,
 * so that whatever else wants the processor has it at once.
 *
 * A processor with nothing to do sleeps, and a virtual one is woken by its host when that has time for it: up to
 * some 10 ms late. Between its looks a thread pauses, so that a sibling of the same core is held up little.
 */
#define _GNU_SOURCE
#include "common.h"
#include <pthread.h>
#include <sched.h>

static void *keep_awake(void *processor)
{
    struct sched_param none = {0};
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET((size_t)processor, &one);
    if (sched_setaffinity(0, sizeof one, &one))
        die("sched_setaffinity");
    if (sched_setscheduler(0, SCHED_IDLE, &none))
        die("sched_setscheduler");
    for (;;) {
#if defined(__x86_64__)
        __builtin_ia32_pause();
#elif defined(__aarch64__)
        __asm__ volatile("isb");
#endif
    }
    return NULL;
}

int main(void)
{
    cpu_set_t all;
    pthread_t thread;
    if (sched_getaffinity(0, sizeof all, &all))
        die("sched_getaffinity");
    for (size_t processor = 0; processor < CPU_SETSIZE; processor++)
        if (CPU_ISSET(processor, &all) && pthread_create(&thread, NULL, keep_awake, (void *)processor))
            die("pthread_create");
    pause();
    return 0;
}
