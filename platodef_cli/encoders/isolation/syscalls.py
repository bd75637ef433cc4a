"""Numbers of the system calls that the filter of an isolated encoder names, per architecture.

From the kernel's headers: ``asm/unistd_64.h`` (x86-64) and ``asm-generic/unistd.h`` (what arm64 uses).
Numbers never change once a kernel was released with them.
"""

_X86_64 = """
    accept=43 accept4=288 access=21 add_key=248 arch_prctl=158 bind=49 bpf=321 brk=12 capget=125
    capset=126 chdir=80 chroot=161 clock_getres=229 clock_gettime=228 clock_nanosleep=230 clone=56
    clone3=435 close=3 close_range=436 connect=42 delete_module=176 dup=32 dup2=33 dup3=292
    epoll_create1=291 epoll_ctl=233 epoll_pwait=281 epoll_wait=232 eventfd2=290 execve=59 execveat=322
    exit=60 exit_group=231 faccessat=269 faccessat2=439 fadvise64=221 fallocate=285 fchdir=81 fchmod=91
    fchmodat=268 fcntl=72 fdatasync=75 finit_module=313 flock=73 fork=57 fsconfig=431 fsmount=432
    fsopen=430 fspick=433 fstat=5 fstatfs=138 fsync=74 ftruncate=77 futex=202 futex_waitv=449
    get_mempolicy=239 get_robust_list=274 getcpu=309 getcwd=79 getdents=78 getdents64=217 getegid=108
    geteuid=107 getgid=104 getgroups=115 getpgid=121 getpgrp=111 getpid=39 getppid=110 getpriority=140
    getrandom=318 getresgid=120 getresuid=118 getrlimit=97 getrusage=98 getsid=124 gettid=186
    gettimeofday=96 getuid=102 init_module=175 io_uring_enter=426 io_uring_register=427
    io_uring_setup=425 ioctl=16 kcmp=312 kexec_file_load=320 kexec_load=246 keyctl=250 kill=62 listen=50
    lseek=8 lstat=6 madvise=28 mbind=237 membarrier=324 memfd_create=319 mincore=27 mkdir=83 mkdirat=258
    mknod=133 mknodat=259 mlock=149 mmap=9 mount=165 mount_setattr=442 move_mount=429 mprotect=10
    mremap=25 msync=26 munlock=150 munmap=11 name_to_handle_at=303 nanosleep=35 newfstatat=262 open=2
    open_by_handle_at=304 open_tree=428 openat=257 perf_event_open=298 personality=135 pidfd_getfd=438
    pidfd_open=434 pidfd_send_signal=424 pipe=22 pipe2=293 pivot_root=155 poll=7 ppoll=271 prctl=157
    pread64=17 preadv=295 prlimit64=302 process_madvise=440 process_vm_readv=310 process_vm_writev=311
    pselect6=270 ptrace=101 pwrite64=18 pwritev=296 quotactl=179 read=0 readlink=89 readlinkat=267
    readv=19 reboot=169 recvmmsg=299 rename=82 renameat=264 renameat2=316 request_key=249
    restart_syscall=219 rmdir=84 rseq=334 rt_sigaction=13 rt_sigpending=127 rt_sigprocmask=14
    rt_sigqueueinfo=129 rt_sigreturn=15 rt_sigsuspend=130 rt_sigtimedwait=128 rt_tgsigqueueinfo=297
    sched_get_priority_max=146 sched_get_priority_min=147 sched_getaffinity=204 sched_getparam=143
    sched_getscheduler=145 sched_setaffinity=203 sched_yield=24 select=23 sendfile=40 sendmmsg=307
    sendmsg=46 sendto=44 set_mempolicy=238 set_robust_list=273 set_tid_address=218 setgid=106
    setgroups=116 setns=308 setregid=114 setresgid=119 setresuid=117 setreuid=113 setrlimit=160
    setsid=112 setuid=105 sigaltstack=131 socket=41 socketpair=53 stat=4 statfs=137 statx=332
    swapoff=168 swapon=167 sysinfo=99 syslog=103 tgkill=234 time=201 times=100 tkill=200 umask=95
    umount2=166 uname=63 unlink=87 unlinkat=263 unshare=272 userfaultfd=323 utimensat=280 vfork=58
    wait4=61 waitid=247 write=1 writev=20
"""
_ARM64 = """
    accept=202 accept4=242 add_key=217 bind=200 bpf=280 brk=214 capget=90 capset=91 chdir=49 chroot=51
    clock_getres=114 clock_gettime=113 clock_nanosleep=115 clone=220 clone3=435 close=57 close_range=436
    connect=203 delete_module=106 dup=23 dup3=24 epoll_create1=20 epoll_ctl=21 epoll_pwait=22
    eventfd2=19 execve=221 execveat=281 exit=93 exit_group=94 faccessat=48 faccessat2=439 fadvise64=223
    fallocate=47 fchdir=50 fchmod=52 fchmodat=53 fcntl=25 fdatasync=83 finit_module=273 flock=32
    fsconfig=431 fsmount=432 fsopen=430 fspick=433 fstat=80 fstatfs=44 fsync=82 ftruncate=46 futex=98
    futex_waitv=449 get_mempolicy=236 get_robust_list=100 getcpu=168 getcwd=17 getdents64=61 getegid=177
    geteuid=175 getgid=176 getgroups=158 getpgid=155 getpid=172 getppid=173 getpriority=141
    getrandom=278 getresgid=150 getresuid=148 getrlimit=163 getrusage=165 getsid=156 gettid=178
    gettimeofday=169 getuid=174 init_module=105 io_uring_enter=426 io_uring_register=427
    io_uring_setup=425 ioctl=29 kcmp=272 kexec_file_load=294 kexec_load=104 keyctl=219 kill=129
    listen=201 lseek=62 madvise=233 mbind=235 membarrier=283 memfd_create=279 mincore=232 mkdirat=34
    mknodat=33 mlock=228 mmap=222 mount=40 mount_setattr=442 move_mount=429 mprotect=226 mremap=216
    msync=227 munlock=229 munmap=215 name_to_handle_at=264 nanosleep=101 newfstatat=79
    open_by_handle_at=265 open_tree=428 openat=56 perf_event_open=241 personality=92 pidfd_getfd=438
    pidfd_open=434 pidfd_send_signal=424 pipe2=59 pivot_root=41 ppoll=73 prctl=167 pread64=67 preadv=69
    prlimit64=261 process_madvise=440 process_vm_readv=270 process_vm_writev=271 pselect6=72 ptrace=117
    pwrite64=68 pwritev=70 quotactl=60 read=63 readlinkat=78 readv=65 reboot=142 recvmmsg=243
    renameat=38 renameat2=276 request_key=218 restart_syscall=128 rseq=293 rt_sigaction=134
    rt_sigpending=136 rt_sigprocmask=135 rt_sigqueueinfo=138 rt_sigreturn=139 rt_sigsuspend=133
    rt_sigtimedwait=137 rt_tgsigqueueinfo=240 sched_get_priority_max=125 sched_get_priority_min=126
    sched_getaffinity=123 sched_getparam=121 sched_getscheduler=120 sched_setaffinity=122
    sched_yield=124 sendfile=71 sendmmsg=269 sendmsg=211 sendto=206 set_mempolicy=237 set_robust_list=99
    set_tid_address=96 setgid=144 setgroups=159 setns=268 setregid=143 setresgid=149 setresuid=147
    setreuid=145 setrlimit=164 setsid=157 setuid=146 sigaltstack=132 socket=198 socketpair=199 statfs=43
    statx=291 swapoff=225 swapon=224 sysinfo=179 syslog=116 tgkill=131 times=153 tkill=130 umask=166
    umount2=39 uname=160 unlinkat=35 unshare=97 userfaultfd=282 utimensat=88 wait4=260 waitid=95
    write=64 writev=66
"""

ALLOWED = tuple(
    """
    read write readv writev pread64 pwrite64 preadv pwritev lseek open openat close close_range fstat
    newfstatat stat lstat statx access faccessat faccessat2 readlink readlinkat getcwd chdir fchdir
    getdents getdents64 mkdir mkdirat unlink unlinkat rmdir rename renameat renameat2 ftruncate
    fallocate fsync fdatasync flock utimensat fchmod fchmodat umask fadvise64 sendfile statfs fstatfs
    mmap munmap mremap mprotect madvise brk msync mlock munlock mincore mbind get_mempolicy
    set_mempolicy memfd_create membarrier dup dup2 dup3 pipe pipe2 fcntl ioctl poll ppoll select
    pselect6 epoll_create1 epoll_ctl epoll_wait epoll_pwait eventfd2 futex futex_waitv set_robust_list
    get_robust_list set_tid_address rseq gettid getpid getppid getpgrp getpgid getsid getuid geteuid
    getgid getegid getresuid getresgid getgroups rt_sigaction rt_sigprocmask rt_sigreturn rt_sigpending
    rt_sigtimedwait rt_sigsuspend sigaltstack restart_syscall exit exit_group wait4 waitid clock_gettime
    clock_getres clock_nanosleep nanosleep gettimeofday time times getrusage sched_yield
    sched_getaffinity sched_setaffinity sched_get_priority_max sched_get_priority_min sched_getparam
    sched_getscheduler getcpu getpriority prlimit64 getrlimit setrlimit sysinfo uname getrandom
    arch_prctl prctl capget
""".split()
)
"""What Python, torch and its thread pools use once they are started, and while they are imported."""

FORBIDDEN = tuple(
    """
    execve execveat fork vfork ptrace process_vm_readv process_vm_writev process_madvise kcmp tkill
    rt_sigqueueinfo rt_tgsigqueueinfo pidfd_open pidfd_getfd pidfd_send_signal socket socketpair connect
    bind listen accept accept4 sendto sendmsg sendmmsg recvmmsg mount umount2 pivot_root chroot
    move_mount open_tree fsopen fsmount fsconfig fspick mount_setattr setns unshare swapon swapoff
    keyctl add_key request_key bpf perf_event_open io_uring_setup io_uring_enter io_uring_register
    userfaultfd init_module finit_module delete_module kexec_load kexec_file_load reboot
    name_to_handle_at open_by_handle_at mknod mknodat personality quotactl syslog setsid setuid setgid
    setreuid setregid setresuid setresgid setgroups capset
""".split()
)
"""What no encoder needs on any device: programs, processes, others' memory, sockets, mounts, keys."""


def _table(text: str) -> dict[str, int]:
    return {name: int(number) for name, _, number in (word.partition("=") for word in text.split())}


NUMBERS: dict[str, tuple[int, dict[str, int]]] = {
    "x86_64": (0xC000003E, _table(_X86_64)),
    "aarch64": (0xC00000B7, _table(_ARM64)),
}
"""``platform.machine()`` -> audit architecture of the kernel, and name -> number."""
