#!/usr/bin/env bash
#SBATCH --job-name=igdm --gres=gpu:1 --cpus-per-task=4 --mem=24G --time=24:00:00
#SBATCH --signal=B:TERM@120 --requeue --output=/dev/null
#
# Tables 1 to 18 and figures 2 to 5 of the paper: a row a run, with the flags that differ from igdm.py's defaults, and after ::
# the values that the paper prints for it. t2.clean=61.62 is table 2's clean accuracy in percent, t10.gd@ltd=0.194 table 10's
# GD in the column of teacher LTD; f4 stands for figure 4. Figures 3 and 5 are drawn from the tables' rows.
#
#   bash run_all.sh                         all rows in order; what is finished is skipped, what was stopped goes on
#   bash run_all.sh 2 10 f4                 these tables and figures; a row's name stands for the row
#   bash run_all.sh --list [2 ...]          name, tables and state of each row, and totals
#   bash run_all.sh --dry-run [2 ...]       the commands, each checked by igdm.py's own parser; runs nothing
#   bash run_all.sh --seeds "0 1 2" [2 ...] each row once a seed (evaluations of teachers: the first alone)
#   bash run_all.sh --smoke                 every kind of row in miniature, on digits and a CPU, into runs/smoke; minutes
#   GPUS="0 1 2 3" bash run_all.sh          a worker on each of these GPUs
#   sbatch --array=0-31 run_all.sh          32 workers under Slurm, from this folder; submit again until all is finished
#
# PYTHON: the interpreter (default python). EXTRA: flags for every command, as in EXTRA="--threads 8"; quotes are understood.
# OOD_PYTHON: the one that has OODRobustBench, for table 9 (default PYTHON); where none has, a line says how to get it.
# RIFT: see Tiny-ImageNet. A row's folder is runs/NAME-sSEED, with output.txt, and .done once it is finished. Each worker goes
# through all rows from a start of its own, and skips those that another holds. Rows that fail do not stop the rest: they are
# named at the end, and the exit status is 1. SIGTERM and Ctrl-C save first (143, 130). Before several workers, "bash run_all.sh 1"
# once: it fetches data and teachers, and trains SVHN's, for which rows would wait.

rows() { cat <<'ROWS'
# Table 1: the teachers themselves, and figure 2a: their remainder
eval cifar100-bdm --eval-only bdm --attacks clean,pgd,aa :: t1.clean=72.58 t1.pgd=44.24 t1.aa=38.83 f2
eval cifar100-ltd --eval-only ltd --attacks clean,pgd,aa :: t1.clean=64.07 t1.pgd=36.61 t1.aa=30.57 f2
eval cifar100-ikl --eval-only ikl --attacks clean,pgd,aa :: t1.clean=73.8 t1.pgd=44.14 t1.aa=39.18 f2
eval cifar10-bdm --eval-only bdm --dataset cifar10 --attacks clean,pgd,aa :: t1.clean=92.44 t1.pgd=70.63 t1.aa=67.31
eval cifar10-ltd --eval-only ltd --dataset cifar10 --attacks clean,pgd,aa :: t1.clean=85.21 t1.pgd=60.89 t1.aa=56.94
eval cifar10-ikl --eval-only ikl --dataset cifar10 --attacks clean,pgd,aa :: t1.clean=92.16 t1.pgd=71.09 t1.aa=67.73

# CIFAR-100, ResNet-18, trained without a teacher, measured against each: tables 2, 12, 17
run cifar100-rn18-pgd-at --method pgd-at --teacher bdm,ltd,ikl :: t2.clean@bdm=55.80 t2.fgsm@bdm=23.51 t2.pgd@bdm=19.88 t2.cw@bdm=20.46 t2.aa@bdm=18.86 t2.clean@ltd=55.80 t2.fgsm@ltd=23.51 t2.pgd@ltd=19.88 t2.cw@ltd=20.46 t2.aa@ltd=18.86 t12.clean@ikl=55.80 t12.pgd@ikl=19.88 t12.aa@ikl=18.86 t12.gd@ikl=0.460 t12.gc@ikl=0.306 t17.clean@bdm=55.8 t17.pgd@bdm=19.88 t17.aa@bdm=18.86 t17.gd@bdm=0.452 t17.gc@bdm=0.389
run cifar100-rn18-trades --method trades --teacher bdm,ltd,ikl :: t2.clean@bdm=53.56 t2.fgsm@bdm=29.85 t2.pgd@bdm=25.85 t2.cw@bdm=23.32 t2.aa@bdm=22.02 t2.clean@ltd=53.56 t2.fgsm@ltd=29.85 t2.pgd@ltd=25.85 t2.cw@ltd=23.92 t2.aa@ltd=22.02 t12.clean@ikl=53.56 t12.pgd@ikl=25.85 t12.aa@ikl=22.02 t12.gd@ikl=0.199 t12.gc@ikl=0.354

# CIFAR-100, ResNet-18, teacher BDM-AT: tables 2, 4-6, 8, 9, 15-18
# Table 9 does not name its teacher: that it is BDM-AT is our assumption. Its values are OODRobustBench's: see ood_program
run cifar100-rn18-bdm-pgd-at+igdm --method pgd-at --igdm :: t2.clean=60.83 t2.fgsm=38.11 t2.pgd=35.09 t2.cw=30.21 t2.aa=29.16 t17.clean=60.68 t17.pgd=35.09 t17.aa=29.16 t17.gd=0.102 t17.gc=0.569
run cifar100-rn18-bdm-trades+igdm --method trades --igdm :: t2.clean=60.88 t2.fgsm=36.26 t2.pgd=32.26 t2.cw=26.50 t2.aa=25.50
run cifar100-rn18-bdm-ard --method ard :: t2.clean=61.51 t2.fgsm=34.23 t2.pgd=30.23 t2.cw=26.97 t2.aa=24.77 t4.aa=24.77 t4.gd=0.142 t4.gc=0.439 t5.point_uniform=0.2392 t5.point_adv=0.2848 t9.clean_ood_d=49.92 t9.robust_ood_d=15.7 t9.robust_ood_t=14.91 t15.clean=61.51 t15.pgd=30.23 t15.aa=24.77 t15.gd=0.142 t15.gc=0.439 t16.clean=61.51 t16.pgd=30.23 t16.aa=24.77 t16.gd=0.142 t16.gc=0.439 t18.clean=61.51 t18.pgd=30.23 t18.aa=24.77 t18.gd=0.1422 t18.gc=0.439 f4
run cifar100-rn18-bdm-ard+igdm --method ard --igdm :: t2.clean=61.62 t2.fgsm=39.75 t2.pgd=35.75 t2.cw=30.99 t2.aa=28.79 t4.aa=28.79 t4.gd=0.101 t4.gc=0.571 t5.point_uniform=0.1312 t5.point_adv=0.1533 t9.clean_ood_d=50.65 t9.robust_ood_d=16.98 t9.robust_ood_t=17.36 t15.clean=61.62 t15.pgd=35.75 t15.aa=28.79 t15.gd=0.101 t15.gc=0.571 t16.clean=61.62 t16.pgd=35.75 t16.aa=28.79 t16.gd=0.101 t16.gc=0.571 t18.clean=61.18 t18.pgd=35.75 t18.aa=28.79 t18.gd=0.101 t18.gc=0.571
run cifar100-rn18-bdm-iad --method iad :: t2.clean=59.92 t2.fgsm=35.47 t2.pgd=31.47 t2.cw=26.91 t2.aa=25.15 t4.aa=25.15 t4.gd=0.135 t4.gc=0.443 t5.point_uniform=0.2374 t5.point_adv=0.2811 t9.clean_ood_d=48.75 t9.robust_ood_d=16.21 t9.robust_ood_t=15.03 f4
run cifar100-rn18-bdm-iad+igdm --method iad --igdm :: t2.clean=62.99 t2.fgsm=37.32 t2.pgd=34.76 t2.cw=29.55 t2.aa=27.76 t4.aa=27.76 t4.gd=0.104 t4.gc=0.549 t5.point_uniform=0.1342 t5.point_adv=0.1684 t9.clean_ood_d=51.43 t9.robust_ood_d=18.2 t9.robust_ood_t=17.35
run cifar100-rn18-bdm-akd --method akd :: t2.clean=60.27 t2.fgsm=35.38 t2.pgd=31.38 t2.cw=26.29 t2.aa=25.09 t4.aa=25.09 t4.gd=0.127 t4.gc=0.438 t5.point_uniform=0.3184 t5.point_adv=0.3622 t9.clean_ood_d=49.74 t9.robust_ood_d=15.95 t9.robust_ood_t=14.96 f4
run cifar100-rn18-bdm-akd+igdm --method akd --igdm :: t2.clean=60.42 t2.fgsm=37.63 t2.pgd=33.62 t2.cw=29.27 t2.aa=28.86 t4.aa=28.86 t4.gd=0.114 t4.gc=0.513 t5.point_uniform=0.1704 t5.point_adv=0.2081 t9.clean_ood_d=49.83 t9.robust_ood_d=18.52 t9.robust_ood_t=17.07
run cifar100-rn18-bdm-rslad --method rslad :: t2.clean=60.22 t2.fgsm=36.16 t2.pgd=32.16 t2.cw=27.96 t2.aa=26.76 t4.aa=26.76 t4.gd=0.118 t4.gc=0.492 t5.point_uniform=0.1903 t5.point_adv=0.2375 t9.clean_ood_d=48.96 t9.robust_ood_d=17.41 t9.robust_ood_t=16.46 f4
run cifar100-rn18-bdm-rslad+igdm --method rslad --igdm :: t2.clean=62.06 t2.fgsm=39.67 t2.pgd=35.67 t2.cw=30.98 t2.aa=29.78 t4.aa=29.78 t4.gd=0.096 t4.gc=0.582 t5.point_uniform=0.1233 t5.point_adv=0.1516 t9.clean_ood_d=50.45 t9.robust_ood_d=19.66 t9.robust_ood_t=18.53
run cifar100-rn18-bdm-adaad --method adaad :: t2.clean=64.43 t2.fgsm=37.33 t2.pgd=33.21 t2.cw=29.53 t2.aa=28.06 t4.aa=28.06 t4.gd=0.107 t4.gc=0.567 t5.point_uniform=0.1794 t5.point_adv=0.2529 t6.aa=28.06 t6.min_per_epoch=10.62 t6.memory_mib=4711 t8.clean=64.43 t8.aa=27.82 t8.gd=0.107 t8.gc=0.568 t9.clean_ood_d=51.53 t9.robust_ood_d=17.77 t9.robust_ood_t=17.32 f4
run cifar100-rn18-bdm-adaiad --method adaiad :: t2.clean=64.13 t2.fgsm=37.33 t2.pgd=33.33 t2.cw=29.02 t2.aa=27.82 t4.aa=27.82 t4.gd=0.107 t4.gc=0.568 t5.point_uniform=0.1803 t5.point_adv=0.2518 t9.clean_ood_d=51.18 t9.robust_ood_d=17.75 t9.robust_ood_t=17.26
run cifar100-rn18-bdm-adaad+igdm --method adaad --igdm :: t2.clean=64.44 t2.fgsm=39.31 t2.pgd=36.19 t2.cw=31.75 t2.aa=30.32 t4.aa=30.32 t4.gd=0.086 t4.gc=0.643 t5.point_uniform=0.1294 t5.point_adv=0.1857 t6.aa=30.32 t6.min_per_epoch=11.21 t6.memory_mib=4711 t8.clean=64.44 t8.aa=30.32 t8.gd=0.086 t8.gc=0.643 t9.clean_ood_d=51.52 t9.robust_ood_d=19.66 t9.robust_ood_t=18.65 f4
# Table 6: the attack without the teacher
run cifar100-rn18-bdm-adaad-student-inner --method adaad --inner student :: t6.aa=25.62 t6.min_per_epoch=2.26 t6.memory_mib=2063
run cifar100-rn18-bdm-adaad+igdm-student-inner --method adaad --igdm --inner student :: t6.aa=29.34 t6.min_per_epoch=3.36 t6.memory_mib=2611
# Table 8: AdaAD's lambda
run cifar100-rn18-bdm-adaad-lambda0.25 --method adaad --adaad-lambda 0.25 :: t8.clean=66.48 t8.aa=25.51 t8.gd=0.118 t8.gc=0.526
run cifar100-rn18-bdm-adaad-lambda0.5 --method adaad --adaad-lambda 0.5 :: t8.clean=65.44 t8.aa=27.24 t8.gd=0.108 t8.gc=0.564
run cifar100-rn18-bdm-adaad-lambda0.75 --method adaad --adaad-lambda 0.75 :: t8.clean=64.98 t8.aa=27.42 t8.gd=0.109 t8.gc=0.56
# Table 15: direct matching, eq. 11
run cifar100-rn18-bdm-ard-direct-a1 --method ard --match direct --alpha 1 :: t15.clean=60.92 t15.pgd=30.56 t15.aa=25.23 t15.gd=0.136 t15.gc=0.447
run cifar100-rn18-bdm-ard-direct-a3 --method ard --match direct --alpha 3 :: t15.clean=60.98 t15.pgd=30.29 t15.aa=24.88 t15.gd=0.137 t15.gc=0.444
run cifar100-rn18-bdm-ard-direct-a6 --method ard --match direct --alpha 6 :: t15.clean=61.13 t15.pgd=30.34 t15.aa=25.27 t15.gd=0.135 t15.gc=0.448
run cifar100-rn18-bdm-ard-direct-a10 --method ard --match direct --alpha 10 :: t15.clean=61.05 t15.pgd=30.80 t15.aa=25.33 t15.gd=0.132 t15.gc=0.453
run cifar100-rn18-bdm-ard-direct-a30 --method ard --match direct --alpha 30 :: t15.clean=61.43 t15.pgd=30.45 t15.aa=25.29 t15.gd=0.127 t15.gc=0.455
run cifar100-rn18-bdm-ard-direct-a60 --method ard --match direct --alpha 60 :: t15.clean=61.14 t15.pgd=30.17 t15.aa=24.73 t15.gd=0.124 t15.gc=0.450
run cifar100-rn18-bdm-ard-direct-a100 --method ard --match direct --alpha 100 :: t15.clean=60.36 t15.pgd=30.48 t15.aa=24.62 t15.gd=0.121 t15.gc=0.445
run cifar100-rn18-bdm-ard-direct-a300 --method ard --match direct --alpha 300 :: t15.clean=59.63 t15.pgd=29.72 t15.aa=23.99 t15.gd=0.116 t15.gc=0.440
run cifar100-rn18-bdm-ard-direct-a600 --method ard --match direct --alpha 600 :: t15.clean=58.79 t15.pgd=29.76 t15.aa=24.06 t15.gd=0.111 t15.gc=0.441
run cifar100-rn18-bdm-ard-direct-a1000 --method ard --match direct --alpha 1000 :: t15.clean=57.08 t15.pgd=29.89 t15.aa=24.14 t15.gd=0.108 t15.gc=0.445
run cifar100-rn18-bdm-ard-direct-a3000 --method ard --match direct --alpha 3000 :: t15.clean=51.30 t15.pgd=29.13 t15.aa=22.85 t15.gd=0.104 t15.gc=0.441
run cifar100-rn18-bdm-ard-direct-a6000 --method ard --match direct --alpha 6000 :: t15.clean=46.95 t15.pgd=27.33 t15.aa=20.70 t15.gd=0.105 t15.gc=0.424
run cifar100-rn18-bdm-ard-direct-a10000 --method ard --match direct --alpha 10000 :: t15.clean=43.22 t15.pgd=25.67 t15.aa=19.18 t15.gd=0.105 t15.gc=0.404
# Table 16: TRADES-like terms in place of IGDM
run cifar100-rn18-bdm-ard-trades-reg-a1 --method ard --match trades-reg --alpha 1 :: t16.clean=57.86 t16.pgd=31.44 t16.aa=25.95 t16.gd=0.125 t16.gc=0.459
run cifar100-rn18-bdm-ard-trades-reg-a5 --method ard --match trades-reg --alpha 5 :: t16.clean=58.07 t16.pgd=32.13 t16.aa=26.06 t16.gd=0.117 t16.gc=0.466
run cifar100-rn18-bdm-ard-trades-reg-a10 --method ard --match trades-reg --alpha 10 :: t16.clean=53.58 t16.pgd=32.01 t16.aa=26.27 t16.gd=0.116 t16.gc=0.463
run cifar100-rn18-bdm-ard-trades-reg-a15 --method ard --match trades-reg --alpha 15 :: t16.clean=52.05 t16.pgd=31.53 t16.aa=26.23 t16.gd=0.115 t16.gc=0.464
run cifar100-rn18-bdm-ard-trades-reg-a20 --method ard --match trades-reg --alpha 20 :: t16.clean=50.87 t16.pgd=31.92 t16.aa=26.30 t16.gd=0.115 t16.gc=0.462
run cifar100-rn18-bdm-ard-trades-reg-a25 --method ard --match trades-reg --alpha 25 :: t16.clean=50.28 t16.pgd=31.92 t16.aa=26.15 t16.gd=0.115 t16.gc=0.458
run cifar100-rn18-bdm-ard-trades-reg-a30 --method ard --match trades-reg --alpha 30 :: t16.clean=49.20 t16.pgd=31.93 t16.aa=25.87 t16.gd=0.115 t16.gc=0.456
run cifar100-rn18-bdm-ard-trades-like-a1 --method ard --match trades-like --alpha 1 :: t16.clean=57.73 t16.pgd=31.72 t16.aa=25.64 t16.gd=0.119 t16.gc=0.461
run cifar100-rn18-bdm-ard-trades-like-a5 --method ard --match trades-like --alpha 5 :: t16.clean=54.18 t16.pgd=31.71 t16.aa=25.79 t16.gd=0.117 t16.gc=0.466
run cifar100-rn18-bdm-ard-trades-like-a10 --method ard --match trades-like --alpha 10 :: t16.clean=52.21 t16.pgd=32.08 t16.aa=25.98 t16.gd=0.118 t16.gc=0.464
run cifar100-rn18-bdm-ard-trades-like-a15 --method ard --match trades-like --alpha 15 :: t16.clean=50.50 t16.pgd=31.85 t16.aa=25.91 t16.gd=0.118 t16.gc=0.457
run cifar100-rn18-bdm-ard-trades-like-a20 --method ard --match trades-like --alpha 20 :: t16.clean=49.67 t16.pgd=31.76 t16.aa=25.78 t16.gd=0.118 t16.gc=0.452
run cifar100-rn18-bdm-ard-trades-like-a25 --method ard --match trades-like --alpha 25 :: t16.clean=48.21 t16.pgd=31.33 t16.aa=25.38 t16.gd=0.119 t16.gc=0.445
run cifar100-rn18-bdm-ard-trades-like-a30 --method ard --match trades-like --alpha 30 :: t16.clean=47.61 t16.pgd=31.04 t16.aa=25.05 t16.gd=0.119 t16.gc=0.439
# Table 17: alpha for PGD-AT
run cifar100-rn18-bdm-pgd-at+igdm-a20 --method pgd-at --igdm --alpha 20 :: t17.clean=56.95 t17.pgd=28.10 t17.aa=24.02 t17.gd=0.157 t17.gc=0.427
run cifar100-rn18-bdm-pgd-at+igdm-a40 --method pgd-at --igdm --alpha 40 :: t17.clean=58.23 t17.pgd=30.36 t17.aa=25.71 t17.gd=0.139 t17.gc=0.457
run cifar100-rn18-bdm-pgd-at+igdm-a60 --method pgd-at --igdm --alpha 60 :: t17.clean=58.74 t17.pgd=31.69 t17.aa=26.57 t17.gd=0.131 t17.gc=0.483
run cifar100-rn18-bdm-pgd-at+igdm-a80 --method pgd-at --igdm --alpha 80 :: t17.clean=59.01 t17.pgd=32.02 t17.aa=27.08 t17.gd=0.123 t17.gc=0.504
run cifar100-rn18-bdm-pgd-at+igdm-a100 --method pgd-at --igdm --alpha 100 :: t17.clean=59.20 t17.pgd=33.09 t17.aa=27.48 t17.gd=0.118 t17.gc=0.519
run cifar100-rn18-bdm-pgd-at+igdm-a120 --method pgd-at --igdm --alpha 120 :: t17.clean=59.42 t17.pgd=33.60 t17.aa=27.95 t17.gd=0.114 t17.gc=0.531
run cifar100-rn18-bdm-pgd-at+igdm-a140 --method pgd-at --igdm --alpha 140 :: t17.clean=59.32 t17.pgd=34.18 t17.aa=28.26 t17.gd=0.111 t17.gc=0.542
run cifar100-rn18-bdm-pgd-at+igdm-a160 --method pgd-at --igdm --alpha 160 :: t17.clean=60.06 t17.pgd=34.38 t17.aa=28.47 t17.gd=0.108 t17.gc=0.550
run cifar100-rn18-bdm-pgd-at+igdm-a180 --method pgd-at --igdm --alpha 180 :: t17.clean=60.53 t17.pgd=34.47 t17.aa=28.51 t17.gd=0.105 t17.gc=0.556
run cifar100-rn18-bdm-pgd-at+igdm-a200 --method pgd-at --igdm --alpha 200 :: t17.clean=60.83 t17.pgd=34.90 t17.aa=28.84 t17.gd=0.104 t17.gc=0.562
run cifar100-rn18-bdm-pgd-at+igdm-a240 --method pgd-at --igdm --alpha 240 :: t17.clean=59.65 t17.pgd=35.34 t17.aa=29.10 t17.gd=0.101 t17.gc=0.572
run cifar100-rn18-bdm-pgd-at+igdm-a260 --method pgd-at --igdm --alpha 260 :: t17.clean=59.71 t17.pgd=35.37 t17.aa=29.09 t17.gd=0.100 t17.gc=0.573
run cifar100-rn18-bdm-pgd-at+igdm-a280 --method pgd-at --igdm --alpha 280 :: t17.clean=59.83 t17.pgd=35.23 t17.aa=28.84 t17.gd=0.099 t17.gc=0.576
run cifar100-rn18-bdm-pgd-at+igdm-a300 --method pgd-at --igdm --alpha 300 :: t17.clean=59.95 t17.pgd=35.39 t17.aa=29.13 t17.gd=0.098 t17.gc=0.579
# Table 18: alpha for ARD
run cifar100-rn18-bdm-ard+igdm-a20 --method ard --igdm --alpha 20 :: t18.clean=59.74 t18.pgd=33.97 t18.aa=27.85 t18.gd=0.112 t18.gc=0.523
run cifar100-rn18-bdm-ard+igdm-a40 --method ard --igdm --alpha 40 :: t18.clean=60.13 t18.pgd=34.21 t18.aa=28.56 t18.gd=0.106 t18.gc=0.546
run cifar100-rn18-bdm-ard+igdm-a60 --method ard --igdm --alpha 60 :: t18.clean=61.08 t18.pgd=34.54 t18.aa=28.42 t18.gd=0.104 t18.gc=0.557
run cifar100-rn18-bdm-ard+igdm-a80 --method ard --igdm --alpha 80 :: t18.clean=60.78 t18.pgd=35.21 t18.aa=28.73 t18.gd=0.102 t18.gc=0.568
run cifar100-rn18-bdm-ard+igdm-a120 --method ard --igdm --alpha 120 :: t18.clean=61.15 t18.pgd=35.17 t18.aa=28.67 t18.gd=0.099 t18.gc=0.578
run cifar100-rn18-bdm-ard+igdm-a140 --method ard --igdm --alpha 140 :: t18.clean=61.24 t18.pgd=35.32 t18.aa=28.75 t18.gd=0.098 t18.gc=0.583
run cifar100-rn18-bdm-ard+igdm-a160 --method ard --igdm --alpha 160 :: t18.clean=60.76 t18.pgd=35.81 t18.aa=28.71 t18.gd=0.096 t18.gc=0.584
run cifar100-rn18-bdm-ard+igdm-a180 --method ard --igdm --alpha 180 :: t18.clean=60.19 t18.pgd=35.67 t18.aa=28.78 t18.gd=0.095 t18.gc=0.585
run cifar100-rn18-bdm-ard+igdm-a200 --method ard --igdm --alpha 200 :: t18.clean=59.95 t18.pgd=35.19 t18.aa=28.67 t18.gd=0.095 t18.gc=0.585
run cifar100-rn18-bdm-ard+igdm-a220 --method ard --igdm --alpha 220 :: t18.clean=59.42 t18.pgd=35.24 t18.aa=28.76 t18.gd=0.096 t18.gc=0.588
run cifar100-rn18-bdm-ard+igdm-a240 --method ard --igdm --alpha 240 :: t18.clean=59.76 t18.pgd=34.78 t18.aa=28.74 t18.gd=0.095 t18.gc=0.587
run cifar100-rn18-bdm-ard+igdm-a260 --method ard --igdm --alpha 260 :: t18.clean=59.04 t18.pgd=35.01 t18.aa=28.36 t18.gd=0.095 t18.gc=0.586
run cifar100-rn18-bdm-ard+igdm-a280 --method ard --igdm --alpha 280 :: t18.clean=59.56 t18.pgd=35.21 t18.aa=28.59 t18.gd=0.095 t18.gc=0.589
run cifar100-rn18-bdm-ard+igdm-a300 --method ard --igdm --alpha 300 :: t18.clean=58.91 t18.pgd=34.78 t18.aa=28.58 t18.gd=0.095 t18.gc=0.582

# CIFAR-100, ResNet-18, teacher LTD: tables 2, 4-7
run cifar100-rn18-ltd-pgd-at+igdm --method pgd-at --igdm --teacher ltd :: t2.clean=60.49 t2.fgsm=37.22 t2.pgd=33.72 t2.cw=29.61 t2.aa=28.02
run cifar100-rn18-ltd-trades+igdm --method trades --igdm --teacher ltd :: t2.clean=59.29 t2.fgsm=36.08 t2.pgd=32.08 t2.cw=26.10 t2.aa=26.10
run cifar100-rn18-ltd-ard --method ard --teacher ltd :: t2.clean=61.34 t2.fgsm=35.19 t2.pgd=31.19 t2.cw=27.74 t2.aa=25.74 t4.aa=25.74 t4.gd=0.108 t4.gc=0.592 t5.point_uniform=0.1822 t5.point_adv=0.2176 f4
run cifar100-rn18-ltd-ard+igdm --method ard --igdm --teacher ltd :: t2.clean=61.58 t2.fgsm=37.45 t2.pgd=33.45 t2.cw=29.94 t2.aa=27.84 t4.aa=27.84 t4.gd=0.082 t4.gc=0.688 t5.point_uniform=0.1301 t5.point_adv=0.1501
run cifar100-rn18-ltd-iad --method iad --teacher ltd :: t2.clean=60.12 t2.fgsm=36.91 t2.pgd=32.91 t2.cw=28.29 t2.aa=26.29 t4.aa=26.29 t4.gd=0.102 t4.gc=0.596 t5.point_uniform=0.1905 t5.point_adv=0.2190 f4
run cifar100-rn18-ltd-iad+igdm --method iad --igdm --teacher ltd :: t2.clean=62.73 t2.fgsm=37.69 t2.pgd=33.69 t2.cw=29.65 t2.aa=27.49 t4.aa=27.49 t4.gd=0.086 t4.gc=0.674 t5.point_uniform=0.1194 t5.point_adv=0.1395
run cifar100-rn18-ltd-akd --method akd --teacher ltd :: t2.clean=60.46 t2.fgsm=35.53 t2.pgd=31.53 t2.cw=27.29 t2.aa=25.37 t4.aa=25.37 t4.gd=0.113 t4.gc=0.584 t5.point_uniform=0.2017 t5.point_adv=0.2323 f4
run cifar100-rn18-ltd-akd+igdm --method akd --igdm --teacher ltd :: t2.clean=60.31 t2.fgsm=38.15 t2.pgd=34.15 t2.cw=29.44 t2.aa=28.44 t4.aa=28.44 t4.gd=0.078 t4.gc=0.693 t5.point_uniform=0.1156 t5.point_adv=0.1312
run cifar100-rn18-ltd-rslad --method rslad --teacher ltd :: t2.clean=60.01 t2.fgsm=36.39 t2.pgd=32.39 t2.cw=28.94 t2.aa=26.94 t4.aa=26.94 t4.gd=0.089 t4.gc=0.658 t5.point_uniform=0.1686 t5.point_adv=0.2019 f4
run cifar100-rn18-ltd-rslad+igdm --method rslad --igdm --teacher ltd :: t2.clean=60.43 t2.fgsm=38.02 t2.pgd=34.02 t2.cw=29.94 t2.aa=28.51 t4.aa=28.51 t4.gd=0.077 t4.gc=0.709 t5.point_uniform=0.1219 t5.point_adv=0.1424
run cifar100-rn18-ltd-adaad --method adaad --teacher ltd :: t2.clean=63.34 t2.fgsm=37.39 t2.pgd=33.39 t2.cw=29.73 t2.aa=27.81 t4.aa=27.81 t4.gd=0.077 t4.gc=0.736 t5.point_uniform=0.1348 t5.point_adv=0.2028 t6.aa=27.81 t6.min_per_epoch=12.12 t6.memory_mib=4900 t7h.clean=62.19 t7h.aa=26.74 t7.clean=63.34 t7.aa=27.81 f4
run cifar100-rn18-ltd-adaiad --method adaiad --teacher ltd :: t2.clean=63.24 t2.fgsm=37.45 t2.pgd=33.45 t2.cw=29.04 t2.aa=27.83 t4.aa=27.83 t4.gd=0.077 t4.gc=0.733 t5.point_uniform=0.1331 t5.point_adv=0.2010 t7h.clean=62.49 t7h.aa=27.98 t7.clean=63.24 t7.aa=27.83
run cifar100-rn18-ltd-adaad+igdm --method adaad --igdm --teacher ltd :: t2.clean=63.44 t2.fgsm=38.23 t2.pgd=34.23 t2.cw=31.09 t2.aa=28.87 t4.aa=28.87 t4.gd=0.070 t4.gc=0.769 t5.point_uniform=0.1253 t5.point_adv=0.1833 t6.aa=28.87 t6.min_per_epoch=13.27 t6.memory_mib=4900 t7.clean=63.44 t7.aa=28.87 f4
# Table 6: the attack without the teacher
run cifar100-rn18-ltd-adaad-student-inner --method adaad --inner student --teacher ltd :: t6.aa=26.57 t6.min_per_epoch=2.42 t6.memory_mib=2634
run cifar100-rn18-ltd-adaad+igdm-student-inner --method adaad --igdm --inner student --teacher ltd :: t6.aa=28.12 t6.min_per_epoch=3.64 t6.memory_mib=3187

# CIFAR-100, ResNet-18, teacher IKL: tables 5, 6, 12
run cifar100-rn18-ikl-ard --method ard --teacher ikl :: t5.point_uniform=0.4030 t5.point_adv=0.4734 t12.clean=61.38 t12.pgd=27.59 t12.aa=23.18 t12.gd=0.178 t12.gc=0.400
run cifar100-rn18-ikl-ard+igdm --method ard --igdm --teacher ikl :: t5.point_uniform=0.1504 t5.point_adv=0.1690 t12.clean=61.55 t12.pgd=35.24 t12.aa=28.87 t12.gd=0.117 t12.gc=0.546
run cifar100-rn18-ikl-iad --method iad --teacher ikl :: t5.point_uniform=0.3939 t5.point_adv=0.4568 t12.clean=61.09 t12.pgd=29.25 t12.aa=23.61 t12.gd=0.173 t12.gc=0.403
run cifar100-rn18-ikl-iad+igdm --method iad --igdm --teacher ikl :: t5.point_uniform=0.1524 t5.point_adv=0.1971 t12.clean=64.20 t12.pgd=33.71 t12.aa=27.03 t12.gd=0.132 t12.gc=0.506
run cifar100-rn18-ikl-akd --method akd --teacher ikl :: t5.point_uniform=0.4325 t5.point_adv=0.4810 t12.clean=61.90 t12.pgd=29.23 t12.aa=23.96 t12.gd=0.171 t12.gc=0.412
run cifar100-rn18-ikl-akd+igdm --method akd --igdm --teacher ikl :: t5.point_uniform=0.1521 t5.point_adv=0.1698 t12.clean=61.94 t12.pgd=33.16 t12.aa=27.82 t12.gd=0.131 t12.gc=0.511
run cifar100-rn18-ikl-rslad --method rslad --teacher ikl :: t5.point_uniform=0.2227 t5.point_adv=0.2856 t12.clean=61.18 t12.pgd=30.54 t12.aa=25.27 t12.gd=0.147 t12.gc=0.444
run cifar100-rn18-ikl-rslad+igdm --method rslad --igdm --teacher ikl :: t5.point_uniform=0.1361 t5.point_adv=0.1681 t12.clean=63.55 t12.pgd=35.26 t12.aa=29.10 t12.gd=0.119 t12.gc=0.541
run cifar100-rn18-ikl-adaad --method adaad --teacher ikl :: t5.point_uniform=0.2499 t5.point_adv=0.3400 t6.aa=26.89 t6.min_per_epoch=10.91 t6.memory_mib=4711 t12.clean=65.36 t12.pgd=32.29 t12.aa=26.89 t12.gd=0.133 t12.gc=0.525
run cifar100-rn18-ikl-adaiad --method adaiad --teacher ikl :: t5.point_uniform=0.2504 t5.point_adv=0.3479 t12.clean=65.29 t12.pgd=32.47 t12.aa=26.80 t12.gd=0.133 t12.gc=0.527
run cifar100-rn18-ikl-adaad+igdm --method adaad --igdm --teacher ikl :: t5.point_uniform=0.1338 t5.point_adv=0.2002 t6.aa=29.22 t6.min_per_epoch=11.3 t6.memory_mib=4711 t12.clean=66.00 t12.pgd=34.47 t12.aa=29.22 t12.gd=0.119 t12.gc=0.582
# Table 6: the attack without the teacher
run cifar100-rn18-ikl-adaad-student-inner --method adaad --inner student --teacher ikl :: t6.aa=23.37 t6.min_per_epoch=2.27 t6.memory_mib=2063
run cifar100-rn18-ikl-adaad+igdm-student-inner --method adaad --igdm --inner student --teacher ikl :: t6.aa=28.94 t6.min_per_epoch=3.38 t6.memory_mib=2611
run cifar100-rn18-ikl-pgd-at+igdm --method pgd-at --igdm --teacher ikl :: t12.clean=62.91 t12.pgd=35.25 t12.aa=28.89 t12.gd=0.122 t12.gc=0.534
run cifar100-rn18-ikl-trades+igdm --method trades --igdm --teacher ikl :: t12.clean=62.41 t12.pgd=31.79 t12.aa=24.02 t12.gd=0.116 t12.gc=0.467

# CIFAR-100, MobileNetV2, trained without a teacher, measured against each: tables 10, 12
run cifar100-mnv2-pgd-at --method pgd-at --student mnv2 --teacher bdm,ltd,ikl :: t10.clean@bdm=59.23 t10.pgd@bdm=24.04 t10.aa@bdm=21.58 t10.gd@bdm=0.204 t10.gc@bdm=0.408 t10.clean@ltd=59.23 t10.pgd@ltd=24.04 t10.aa@ltd=21.58 t10.gd@ltd=0.194 t10.gc@ltd=0.486 t12.clean@ikl=59.23 t12.pgd@ikl=24.04 t12.aa@ikl=21.58 t12.gd@ikl=0.211 t12.gc@ikl=0.392
run cifar100-mnv2-trades --method trades --student mnv2 --teacher bdm,ltd,ikl :: t10.clean@bdm=51.05 t10.pgd@bdm=24.83 t10.aa@bdm=20.62 t10.gd@bdm=0.132 t10.gc@bdm=0.377 t10.clean@ltd=51.05 t10.pgd@ltd=24.83 t10.aa@ltd=20.62 t10.gd@ltd=0.119 t10.gc@ltd=0.460 t12.clean@ikl=51.05 t12.pgd@ikl=24.83 t12.aa@ikl=20.62 t12.gd@ikl=0.148 t12.gc@ikl=0.351

# CIFAR-100, MobileNetV2, teacher BDM-AT: table 10
run cifar100-mnv2-bdm-pgd-at+igdm --method pgd-at --igdm --student mnv2 :: t10.clean=59.52 t10.pgd=32.88 t10.aa=27.28 t10.gd=0.109 t10.gc=0.528
run cifar100-mnv2-bdm-trades+igdm --method trades --igdm --student mnv2 :: t10.clean=57.80 t10.pgd=29.47 t10.aa=22.05 t10.gd=0.097 t10.gc=0.469
run cifar100-mnv2-bdm-ard --method ard --student mnv2 :: t10.clean=60.74 t10.pgd=29.92 t10.aa=24.33 t10.gd=0.137 t10.gc=0.445
run cifar100-mnv2-bdm-ard+igdm --method ard --igdm --student mnv2 :: t10.clean=60.83 t10.pgd=33.55 t10.aa=27.50 t10.gd=0.107 t10.gc=0.534
run cifar100-mnv2-bdm-iad --method iad --student mnv2 :: t10.clean=56.35 t10.pgd=28.96 t10.aa=23.43 t10.gd=0.129 t10.gc=0.430
run cifar100-mnv2-bdm-iad+igdm --method iad --igdm --student mnv2 :: t10.clean=57.65 t10.pgd=31.97 t10.aa=25.60 t10.gd=0.106 t10.gc=0.506
run cifar100-mnv2-bdm-akd --method akd --student mnv2 :: t10.clean=60.84 t10.pgd=29.37 t10.aa=24.22 t10.gd=0.135 t10.gc=0.428
run cifar100-mnv2-bdm-akd+igdm --method akd --igdm --student mnv2 :: t10.clean=60.39 t10.pgd=33.62 t10.aa=28.04 t10.gd=0.104 t10.gc=0.538
run cifar100-mnv2-bdm-rslad --method rslad --student mnv2 :: t10.clean=61.29 t10.pgd=31.74 t10.aa=26.18 t10.gd=0.121 t10.gc=0.490
run cifar100-mnv2-bdm-rslad+igdm --method rslad --igdm --student mnv2 :: t10.clean=61.48 t10.pgd=35.22 t10.aa=29.32 t10.gd=0.101 t10.gc=0.560
run cifar100-mnv2-bdm-adaad --method adaad --student mnv2 :: t10.clean=61.89 t10.pgd=29.54 t10.aa=23.80 t10.gd=0.118 t10.gc=0.497
run cifar100-mnv2-bdm-adaiad --method adaiad --student mnv2 :: t10.clean=60.83 t10.pgd=29.94 t10.aa=23.83 t10.gd=0.116 t10.gc=0.499
run cifar100-mnv2-bdm-adaad+igdm --method adaad --igdm --student mnv2 :: t10.clean=61.43 t10.pgd=33.51 t10.aa=27.43 t10.gd=0.097 t10.gc=0.583

# CIFAR-100, MobileNetV2, teacher LTD: table 10
run cifar100-mnv2-ltd-pgd-at+igdm --method pgd-at --igdm --student mnv2 --teacher ltd :: t10.clean=59.70 t10.pgd=32.59 t10.aa=27.14 t10.gd=0.091 t10.gc=0.636
run cifar100-mnv2-ltd-trades+igdm --method trades --igdm --student mnv2 --teacher ltd :: t10.clean=56.81 t10.pgd=29.87 t10.aa=23.38 t10.gd=0.081 t10.gc=0.640
run cifar100-mnv2-ltd-ard --method ard --student mnv2 --teacher ltd :: t10.clean=60.55 t10.pgd=30.82 t10.aa=25.28 t10.gd=0.111 t10.gc=0.569
run cifar100-mnv2-ltd-ard+igdm --method ard --igdm --student mnv2 --teacher ltd :: t10.clean=60.44 t10.pgd=33.36 t10.aa=27.59 t10.gd=0.082 t10.gc=0.681
run cifar100-mnv2-ltd-iad --method iad --student mnv2 --teacher ltd :: t10.clean=56.11 t10.pgd=29.55 t10.aa=24.22 t10.gd=0.106 t10.gc=0.547
run cifar100-mnv2-ltd-iad+igdm --method iad --igdm --student mnv2 --teacher ltd :: t10.clean=58.60 t10.pgd=31.36 t10.aa=25.64 t10.gd=0.090 t10.gc=0.617
run cifar100-mnv2-ltd-akd --method akd --student mnv2 --teacher ltd :: t10.clean=60.65 t10.pgd=29.84 t10.aa=24.85 t10.gd=0.112 t10.gc=0.564
run cifar100-mnv2-ltd-akd+igdm --method akd --igdm --student mnv2 --teacher ltd :: t10.clean=59.94 t10.pgd=33.70 t10.aa=28.12 t10.gd=0.077 t10.gc=0.715
run cifar100-mnv2-ltd-rslad --method rslad --student mnv2 --teacher ltd :: t10.clean=60.43 t10.pgd=32.37 t10.aa=26.85 t10.gd=0.092 t10.gc=0.632
run cifar100-mnv2-ltd-rslad+igdm --method rslad --igdm --student mnv2 --teacher ltd :: t10.clean=60.36 t10.pgd=33.99 t10.aa=28.00 t10.gd=0.079 t10.gc=0.696
run cifar100-mnv2-ltd-adaad --method adaad --student mnv2 --teacher ltd :: t10.clean=61.43 t10.pgd=30.58 t10.aa=25.03 t10.gd=0.091 t10.gc=0.649
run cifar100-mnv2-ltd-adaiad --method adaiad --student mnv2 --teacher ltd :: t10.clean=61.22 t10.pgd=30.78 t10.aa=25.22 t10.gd=0.088 t10.gc=0.652
run cifar100-mnv2-ltd-adaad+igdm --method adaad --igdm --student mnv2 --teacher ltd :: t10.clean=61.57 t10.pgd=33.14 t10.aa=27.65 t10.gd=0.076 t10.gc=0.721

# CIFAR-100, MobileNetV2, teacher IKL: table 12
run cifar100-mnv2-ikl-pgd-at+igdm --method pgd-at --igdm --student mnv2 --teacher ikl :: t12.clean=59.75 t12.pgd=33.59 t12.aa=27.02 t12.gd=0.120 t12.gc=0.517
run cifar100-mnv2-ikl-trades+igdm --method trades --igdm --student mnv2 --teacher ikl :: t12.clean=59.34 t12.pgd=29.36 t12.aa=22.40 t12.gd=0.120 t12.gc=0.444
run cifar100-mnv2-ikl-ard --method ard --student mnv2 --teacher ikl :: t12.clean=61.52 t12.pgd=28.00 t12.aa=23.40 t12.gd=0.164 t12.gc=0.420
run cifar100-mnv2-ikl-ard+igdm --method ard --igdm --student mnv2 --teacher ikl :: t12.clean=61.95 t12.pgd=32.26 t12.aa=26.48 t12.gd=0.132 t12.gc=0.498
run cifar100-mnv2-ikl-iad --method iad --student mnv2 --teacher ikl :: t12.clean=58.39 t12.pgd=28.40 t12.aa=23.06 t12.gd=0.147 t12.gc=0.418
run cifar100-mnv2-ikl-iad+igdm --method iad --igdm --student mnv2 --teacher ikl :: t12.clean=59.58 t12.pgd=30.96 t12.aa=25.42 t12.gd=0.128 t12.gc=0.478
run cifar100-mnv2-ikl-akd --method akd --student mnv2 --teacher ikl :: t12.clean=61.69 t12.pgd=27.87 t12.aa=23.60 t12.gd=0.159 t12.gc=0.431
run cifar100-mnv2-ikl-akd+igdm --method akd --igdm --student mnv2 --teacher ikl :: t12.clean=61.56 t12.pgd=33.62 t12.aa=27.32 t12.gd=0.117 t12.gc=0.519
run cifar100-mnv2-ikl-rslad --method rslad --student mnv2 --teacher ikl :: t12.clean=61.95 t12.pgd=30.16 t12.aa=25.09 t12.gd=0.157 t12.gc=0.441
run cifar100-mnv2-ikl-rslad+igdm --method rslad --igdm --student mnv2 --teacher ikl :: t12.clean=62.48 t12.pgd=35.25 t12.aa=28.82 t12.gd=0.118 t12.gc=0.547
run cifar100-mnv2-ikl-adaad --method adaad --student mnv2 --teacher ikl :: t12.clean=62.35 t12.pgd=28.51 t12.aa=23.01 t12.gd=0.140 t12.gc=0.470
run cifar100-mnv2-ikl-adaiad --method adaiad --student mnv2 --teacher ikl :: t12.clean=62.17 t12.pgd=28.48 t12.aa=23.39 t12.gd=0.139 t12.gc=0.473
run cifar100-mnv2-ikl-adaad+igdm --method adaad --igdm --student mnv2 --teacher ikl :: t12.clean=62.02 t12.pgd=32.85 t12.aa=26.11 t12.gd=0.119 t12.gc=0.533

# CIFAR-10, ResNet-18, trained without a teacher, measured against each: tables 3, 13
run cifar10-rn18-pgd-at --method pgd-at --dataset cifar10 --teacher ltd,ikl :: t3.clean@ltd=84.52 t3.fgsm@ltd=52.42 t3.pgd@ltd=42.80 t3.cw@ltd=42.98 t3.aa@ltd=41.12 t13.clean@ikl=84.52 t13.pgd@ikl=42.80 t13.aa@ikl=41.12 t13.gd@ikl=0.409 t13.gc@ikl=0.286
run cifar10-rn18-trades --method trades --dataset cifar10 --teacher ltd,ikl :: t3.clean@ltd=82.46 t3.fgsm@ltd=56.97 t3.pgd@ltd=49.13 t3.cw@ltd=47.98 t3.aa@ltd=47.09 t13.clean@ikl=82.46 t13.pgd@ikl=49.13 t13.aa@ikl=47.09 t13.gd@ikl=0.131 t13.gc@ikl=0.425

# CIFAR-10, ResNet-18, teacher LTD: table 3
run cifar10-rn18-ltd-pgd-at+igdm --method pgd-at --igdm --dataset cifar10 --teacher ltd :: t3.clean=84.15 t3.fgsm=59.21 t3.pgd=53.70 t3.cw=51.19 t3.aa=49.63
run cifar10-rn18-ltd-trades+igdm --method trades --igdm --dataset cifar10 --teacher ltd :: t3.clean=83.50 t3.fgsm=60.84 t3.pgd=54.64 t3.cw=49.34 t3.aa=48.83
run cifar10-rn18-ltd-ard --method ard --dataset cifar10 --teacher ltd :: t3.clean=85.04 t3.fgsm=60.31 t3.pgd=53.27 t3.cw=50.27 t3.aa=49.49
run cifar10-rn18-ltd-ard+igdm --method ard --igdm --dataset cifar10 --teacher ltd :: t3.clean=85.18 t3.fgsm=61.24 t3.pgd=54.75 t3.cw=51.31 t3.aa=50.20
run cifar10-rn18-ltd-iad --method iad --dataset cifar10 --teacher ltd :: t3.clean=84.33 t3.fgsm=61.21 t3.pgd=54.24 t3.cw=50.97 t3.aa=50.09
run cifar10-rn18-ltd-iad+igdm --method iad --igdm --dataset cifar10 --teacher ltd :: t3.clean=84.49 t3.fgsm=62.45 t3.pgd=56.55 t3.cw=53.01 t3.aa=51.09
run cifar10-rn18-ltd-akd --method akd --dataset cifar10 --teacher ltd :: t3.clean=85.10 t3.fgsm=59.07 t3.pgd=51.53 t3.cw=49.13 t3.aa=48.04
run cifar10-rn18-ltd-akd+igdm --method akd --igdm --dataset cifar10 --teacher ltd :: t3.clean=84.94 t3.fgsm=61.36 t3.pgd=54.89 t3.cw=51.55 t3.aa=50.87
run cifar10-rn18-ltd-rslad --method rslad --dataset cifar10 --teacher ltd :: t3.clean=83.59 t3.fgsm=60.97 t3.pgd=55.98 t3.cw=53.15 t3.aa=52.13
run cifar10-rn18-ltd-rslad+igdm --method rslad --igdm --dataset cifar10 --teacher ltd :: t3.clean=83.67 t3.fgsm=62.41 t3.pgd=57.34 t3.cw=54.00 t3.aa=53.10
run cifar10-rn18-ltd-adaad --method adaad --dataset cifar10 --teacher ltd :: t3.clean=84.74 t3.fgsm=61.87 t3.pgd=56.78 t3.cw=53.51 t3.aa=52.79
run cifar10-rn18-ltd-adaiad --method adaiad --dataset cifar10 --teacher ltd :: t3.clean=84.75 t3.fgsm=61.98 t3.pgd=57.04 t3.cw=53.57 t3.aa=52.88
run cifar10-rn18-ltd-adaad+igdm --method adaad --igdm --dataset cifar10 --teacher ltd :: t3.clean=84.83 t3.fgsm=62.54 t3.pgd=57.61 t3.cw=55.09 t3.aa=54.02

# CIFAR-10, ResNet-18, teacher IKL: table 13
run cifar10-rn18-ikl-pgd-at+igdm --method pgd-at --igdm --dataset cifar10 --teacher ikl :: t13.clean=83.66 t13.pgd=54.38 t13.aa=49.85 t13.gd=0.072 t13.gc=0.541
run cifar10-rn18-ikl-trades+igdm --method trades --igdm --dataset cifar10 --teacher ikl :: t13.clean=83.14 t13.pgd=54.91 t13.aa=48.76 t13.gd=0.098 t13.gc=0.455
run cifar10-rn18-ikl-ard --method ard --dataset cifar10 --teacher ikl :: t13.clean=85.41 t13.pgd=49.36 t13.aa=45.32 t13.gd=0.087 t13.gc=0.389
run cifar10-rn18-ikl-ard+igdm --method ard --igdm --dataset cifar10 --teacher ikl :: t13.clean=85.78 t13.pgd=54.37 t13.aa=46.52 t13.gd=0.072 t13.gc=0.467
run cifar10-rn18-ikl-iad --method iad --dataset cifar10 --teacher ikl :: t13.clean=85.22 t13.pgd=49.70 t13.aa=45.96 t13.gd=0.083 t13.gc=0.393
run cifar10-rn18-ikl-iad+igdm --method iad --igdm --dataset cifar10 --teacher ikl :: t13.clean=83.78 t13.pgd=54.77 t13.aa=50.24 t13.gd=0.061 t13.gc=0.521
run cifar10-rn18-ikl-akd --method akd --dataset cifar10 --teacher ikl :: t13.clean=83.62 t13.pgd=51.81 t13.aa=46.01 t13.gd=0.080 t13.gc=0.395
run cifar10-rn18-ikl-akd+igdm --method akd --igdm --dataset cifar10 --teacher ikl :: t13.clean=83.70 t13.pgd=53.69 t13.aa=49.45 t13.gd=0.067 t13.gc=0.539
run cifar10-rn18-ikl-rslad --method rslad --dataset cifar10 --teacher ikl :: t13.clean=85.55 t13.pgd=52.13 t13.aa=48.83 t13.gd=0.069 t13.gc=0.531
run cifar10-rn18-ikl-rslad+igdm --method rslad --igdm --dataset cifar10 --teacher ikl :: t13.clean=85.67 t13.pgd=53.30 t13.aa=49.58 t13.gd=0.065 t13.gc=0.541
run cifar10-rn18-ikl-adaad --method adaad --dataset cifar10 --teacher ikl :: t13.clean=86.59 t13.pgd=54.25 t13.aa=50.86 t13.gd=0.062 t13.gc=0.570
run cifar10-rn18-ikl-adaiad --method adaiad --dataset cifar10 --teacher ikl :: t13.clean=86.57 t13.pgd=54.59 t13.aa=50.61 t13.gd=0.062 t13.gc=0.572
run cifar10-rn18-ikl-adaad+igdm --method adaad --igdm --dataset cifar10 --teacher ikl :: t13.clean=86.10 t13.pgd=55.41 t13.aa=51.29 t13.gd=0.060 t13.gc=0.587

# CIFAR-10, ResNet-18, teacher LTD (WRN-34-20): table 7
# No alpha is printed for it: LTD's. t7h: quoted there from Huang et al.
run cifar10-rn18-ltd2-adaad --method adaad --dataset cifar10 --teacher ltd2 :: t7h.clean=85.58 t7h.aa=51.37 t7.clean=85.47 t7.aa=52.47
run cifar10-rn18-ltd2-adaiad --method adaiad --dataset cifar10 --teacher ltd2 :: t7h.clean=85.04 t7h.aa=52.96 t7.clean=85.34 t7.aa=52.3
run cifar10-rn18-ltd2-adaad+igdm --method adaad --igdm --dataset cifar10 --teacher ltd2 :: t7.clean=85.5 t7.aa=53.45

# CIFAR-10, MobileNetV2, trained without a teacher, measured against each: tables 11, 13
run cifar10-mnv2-pgd-at --method pgd-at --dataset cifar10 --student mnv2 --teacher bdm,ltd,ikl :: t11.clean@bdm=83.52 t11.pgd@bdm=44.47 t11.aa@bdm=41.19 t11.gd@bdm=0.175 t11.gc@bdm=0.406 t11.clean@ltd=83.52 t11.pgd@ltd=44.47 t11.aa@ltd=41.19 t11.gd@ltd=0.171 t11.gc@ltd=0.505 t13.clean@ikl=83.52 t13.pgd@ikl=44.47 t13.aa@ikl=41.19 t13.gd@ikl=0.175 t13.gc@ikl=0.401
run cifar10-mnv2-trades --method trades --dataset cifar10 --student mnv2 --teacher bdm,ltd,ikl :: t11.clean@bdm=81.57 t11.pgd@bdm=50.49 t11.aa@bdm=46.88 t11.gd@bdm=0.074 t11.gc@bdm=0.492 t11.clean@ltd=81.57 t11.pgd@ltd=50.49 t11.aa@ltd=46.88 t11.gd@ltd=0.062 t11.gc@ltd=0.605 t13.clean@ikl=81.57 t13.pgd@ikl=50.49 t13.aa@ikl=46.88 t13.gd@ikl=0.073 t13.gc@ikl=0.489

# CIFAR-10, MobileNetV2, teacher BDM-AT: table 11
run cifar10-mnv2-bdm-pgd-at+igdm --method pgd-at --igdm --dataset cifar10 --student mnv2 :: t11.clean=82.78 t11.pgd=51.54 t11.aa=47.13 t11.gd=0.074 t11.gc=0.501
run cifar10-mnv2-bdm-trades+igdm --method trades --igdm --dataset cifar10 --student mnv2 :: t11.clean=82.33 t11.pgd=52.94 t11.aa=47.70 t11.gd=0.050 t11.gc=0.502
run cifar10-mnv2-bdm-ard --method ard --dataset cifar10 --student mnv2 :: t11.clean=84.38 t11.pgd=48.26 t11.aa=44.02 t11.gd=0.091 t11.gc=0.371
run cifar10-mnv2-bdm-ard+igdm --method ard --igdm --dataset cifar10 --student mnv2 :: t11.clean=84.53 t11.pgd=52.45 t11.aa=45.06 t11.gd=0.071 t11.gc=0.467
run cifar10-mnv2-bdm-iad --method iad --dataset cifar10 --student mnv2 :: t11.clean=83.79 t11.pgd=48.36 t11.aa=44.02 t11.gd=0.088 t11.gc=0.385
run cifar10-mnv2-bdm-iad+igdm --method iad --igdm --dataset cifar10 --student mnv2 :: t11.clean=84.27 t11.pgd=52.42 t11.aa=45.08 t11.gd=0.063 t11.gc=0.497
run cifar10-mnv2-bdm-akd --method akd --dataset cifar10 --student mnv2 :: t11.clean=83.75 t11.pgd=47.15 t11.aa=43.43 t11.gd=0.093 t11.gc=0.368
run cifar10-mnv2-bdm-akd+igdm --method akd --igdm --dataset cifar10 --student mnv2 :: t11.clean=83.29 t11.pgd=53.29 t11.aa=48.41 t11.gd=0.064 t11.gc=0.527
run cifar10-mnv2-bdm-rslad --method rslad --dataset cifar10 --student mnv2 :: t11.clean=84.69 t11.pgd=50.94 t11.aa=47.38 t11.gd=0.074 t11.gc=0.491
run cifar10-mnv2-bdm-rslad+igdm --method rslad --igdm --dataset cifar10 --student mnv2 :: t11.clean=84.64 t11.pgd=52.33 t11.aa=49.27 t11.gd=0.068 t11.gc=0.515
run cifar10-mnv2-bdm-adaad --method adaad --dataset cifar10 --student mnv2 :: t11.clean=84.51 t11.pgd=50.67 t11.aa=46.56 t11.gd=0.069 t11.gc=0.516
run cifar10-mnv2-bdm-adaiad --method adaiad --dataset cifar10 --student mnv2 :: t11.clean=85.04 t11.pgd=51.33 t11.aa=47.62 t11.gd=0.068 t11.gc=0.519
run cifar10-mnv2-bdm-adaad+igdm --method adaad --igdm --dataset cifar10 --student mnv2 :: t11.clean=84.75 t11.pgd=52.35 t11.aa=48.34 t11.gd=0.065 t11.gc=0.526

# CIFAR-10, MobileNetV2, teacher LTD: table 11
run cifar10-mnv2-ltd-pgd-at+igdm --method pgd-at --igdm --dataset cifar10 --student mnv2 --teacher ltd :: t11.clean=81.73 t11.pgd=52.63 t11.aa=48.51 t11.gd=0.048 t11.gc=0.671
run cifar10-mnv2-ltd-trades+igdm --method trades --igdm --dataset cifar10 --student mnv2 --teacher ltd :: t11.clean=81.82 t11.pgd=52.96 t11.aa=47.47 t11.gd=0.039 t11.gc=0.645
run cifar10-mnv2-ltd-ard --method ard --dataset cifar10 --student mnv2 --teacher ltd :: t11.clean=84.18 t11.pgd=52.16 t11.aa=48.11 t11.gd=0.054 t11.gc=0.578
run cifar10-mnv2-ltd-ard+igdm --method ard --igdm --dataset cifar10 --student mnv2 --teacher ltd :: t11.clean=84.25 t11.pgd=54.03 t11.aa=49.53 t11.gd=0.042 t11.gc=0.684
run cifar10-mnv2-ltd-iad --method iad --dataset cifar10 --student mnv2 --teacher ltd :: t11.clean=83.38 t11.pgd=52.71 t11.aa=48.45 t11.gd=0.051 t11.gc=0.592
run cifar10-mnv2-ltd-iad+igdm --method iad --igdm --dataset cifar10 --student mnv2 --teacher ltd :: t11.clean=83.65 t11.pgd=54.57 t11.aa=50.14 t11.gd=0.038 t11.gc=0.704
run cifar10-mnv2-ltd-akd --method akd --dataset cifar10 --student mnv2 --teacher ltd :: t11.clean=84.46 t11.pgd=50.84 t11.aa=46.96 t11.gd=0.057 t11.gc=0.566
run cifar10-mnv2-ltd-akd+igdm --method akd --igdm --dataset cifar10 --student mnv2 --teacher ltd :: t11.clean=83.98 t11.pgd=54.40 t11.aa=49.99 t11.gd=0.040 t11.gc=0.691
run cifar10-mnv2-ltd-rslad --method rslad --dataset cifar10 --student mnv2 --teacher ltd :: t11.clean=82.60 t11.pgd=54.55 t11.aa=50.44 t11.gd=0.040 t11.gc=0.706
run cifar10-mnv2-ltd-rslad+igdm --method rslad --igdm --dataset cifar10 --student mnv2 --teacher ltd :: t11.clean=82.61 t11.pgd=55.02 t11.aa=51.01 t11.gd=0.039 t11.gc=0.706
run cifar10-mnv2-ltd-adaad --method adaad --dataset cifar10 --student mnv2 --teacher ltd :: t11.clean=84.24 t11.pgd=55.47 t11.aa=51.36 t11.gd=0.034 t11.gc=0.777
run cifar10-mnv2-ltd-adaiad --method adaiad --dataset cifar10 --student mnv2 --teacher ltd :: t11.clean=84.14 t11.pgd=55.58 t11.aa=51.48 t11.gd=0.034 t11.gc=0.778
run cifar10-mnv2-ltd-adaad+igdm --method adaad --igdm --dataset cifar10 --student mnv2 --teacher ltd :: t11.clean=84.27 t11.pgd=56.15 t11.aa=52.15 t11.gd=0.033 t11.gc=0.790

# CIFAR-10, MobileNetV2, teacher IKL: table 13
run cifar10-mnv2-ikl-pgd-at+igdm --method pgd-at --igdm --dataset cifar10 --student mnv2 --teacher ikl :: t13.clean=82.11 t13.pgd=51.13 t13.aa=47.00 t13.gd=0.063 t13.gc=0.507
run cifar10-mnv2-ikl-trades+igdm --method trades --igdm --dataset cifar10 --student mnv2 --teacher ikl :: t13.clean=81.67 t13.pgd=52.32 t13.aa=47.40 t13.gd=0.057 t13.gc=0.492
run cifar10-mnv2-ikl-ard --method ard --dataset cifar10 --student mnv2 --teacher ikl :: t13.clean=84.68 t13.pgd=48.03 t13.aa=44.11 t13.gd=0.087 t13.gc=0.376
run cifar10-mnv2-ikl-ard+igdm --method ard --igdm --dataset cifar10 --student mnv2 --teacher ikl :: t13.clean=84.72 t13.pgd=50.89 t13.aa=46.13 t13.gd=0.070 t13.gc=0.473
run cifar10-mnv2-ikl-iad --method iad --dataset cifar10 --student mnv2 --teacher ikl :: t13.clean=84.25 t13.pgd=48.58 t13.aa=44.15 t13.gd=0.082 t13.gc=0.390
run cifar10-mnv2-ikl-iad+igdm --method iad --igdm --dataset cifar10 --student mnv2 --teacher ikl :: t13.clean=83.89 t13.pgd=51.46 t13.aa=46.48 t13.gd=0.069 t13.gc=0.458
run cifar10-mnv2-ikl-akd --method akd --dataset cifar10 --student mnv2 --teacher ikl :: t13.clean=84.52 t13.pgd=47.56 t13.aa=43.27 t13.gd=0.154 t13.gc=0.421
run cifar10-mnv2-ikl-akd+igdm --method akd --igdm --dataset cifar10 --student mnv2 --teacher ikl :: t13.clean=84.33 t13.pgd=50.36 t13.aa=45.37 t13.gd=0.089 t13.gc=0.438
run cifar10-mnv2-ikl-rslad --method rslad --dataset cifar10 --student mnv2 --teacher ikl :: t13.clean=84.62 t13.pgd=51.43 t13.aa=47.69 t13.gd=0.072 t13.gc=0.503
run cifar10-mnv2-ikl-rslad+igdm --method rslad --igdm --dataset cifar10 --student mnv2 --teacher ikl :: t13.clean=84.30 t13.pgd=53.14 t13.aa=48.91 t13.gd=0.066 t13.gc=0.523
run cifar10-mnv2-ikl-adaad --method adaad --dataset cifar10 --student mnv2 --teacher ikl :: t13.clean=85.31 t13.pgd=52.10 t13.aa=48.03 t13.gd=0.066 t13.gc=0.524
run cifar10-mnv2-ikl-adaiad --method adaiad --dataset cifar10 --student mnv2 --teacher ikl :: t13.clean=85.47 t13.pgd=52.05 t13.aa=47.96 t13.gd=0.066 t13.gc=0.523
run cifar10-mnv2-ikl-adaad+igdm --method adaad --igdm --dataset cifar10 --student mnv2 --teacher ikl :: t13.clean=85.11 t13.pgd=53.07 t13.aa=49.08 t13.gd=0.061 t13.gc=0.541

# Table 1, SVHN: the teacher is this script's own, trained by the first row that needs it
eval svhn-pgd-at --eval-only pgd-at --dataset svhn --attacks clean,pgd,aa :: t1.clean=93.9 t1.pgd=61.78 t1.aa=54.28

# SVHN, ResNet-18, trained without a teacher, measured against each: table 3
run svhn-rn18-pgd-at --method pgd-at --dataset svhn --teacher pgd-at :: t3.clean=91.62 t3.fgsm=65.93 t3.pgd=48.07 t3.cw=48.34 t3.aa=42.46
run svhn-rn18-trades --method trades --dataset svhn --teacher pgd-at :: t3.clean=89.91 t3.fgsm=69.81 t3.pgd=57.52 t3.cw=51.32 t3.aa=50.74

# SVHN, ResNet-18, teacher PGD-AT: table 3
run svhn-rn18-pgd-at-pgd-at+igdm --method pgd-at --igdm --dataset svhn :: t3.clean=92.57 t3.fgsm=72.19 t3.pgd=60.55 t3.cw=56.10 t3.aa=52.12
run svhn-rn18-pgd-at-trades+igdm --method trades --igdm --dataset svhn :: t3.clean=91.98 t3.fgsm=71.85 t3.pgd=60.09 t3.cw=56.68 t3.aa=54.15
run svhn-rn18-pgd-at-ard --method ard --dataset svhn :: t3.clean=92.32 t3.fgsm=70.46 t3.pgd=55.62 t3.cw=53.07 t3.aa=48.24
run svhn-rn18-pgd-at-ard+igdm --method ard --igdm --dataset svhn :: t3.clean=92.19 t3.fgsm=72.01 t3.pgd=60.07 t3.cw=56.56 t3.aa=52.95
run svhn-rn18-pgd-at-iad --method iad --dataset svhn :: t3.clean=91.62 t3.fgsm=70.82 t3.pgd=56.42 t3.cw=53.01 t3.aa=47.76
run svhn-rn18-pgd-at-iad+igdm --method iad --igdm --dataset svhn :: t3.clean=93.03 t3.fgsm=71.85 t3.pgd=58.86 t3.cw=54.66 t3.aa=51.45
run svhn-rn18-pgd-at-akd --method akd --dataset svhn :: t3.clean=92.49 t3.fgsm=70.44 t3.pgd=56.49 t3.cw=53.91 t3.aa=50.17
run svhn-rn18-pgd-at-akd+igdm --method akd --igdm --dataset svhn :: t3.clean=92.50 t3.fgsm=71.15 t3.pgd=59.38 t3.cw=55.97 t3.aa=52.51
run svhn-rn18-pgd-at-rslad --method rslad --dataset svhn :: t3.clean=90.52 t3.fgsm=62.74 t3.pgd=53.80 t3.cw=50.01 t3.aa=48.41
run svhn-rn18-pgd-at-rslad+igdm --method rslad --igdm --dataset svhn :: t3.clean=90.71 t3.fgsm=64.71 t3.pgd=56.14 t3.cw=53.98 t3.aa=50.69
run svhn-rn18-pgd-at-adaad --method adaad --dataset svhn :: t3.clean=93.27 t3.fgsm=67.14 t3.pgd=57.43 t3.cw=54.88 t3.aa=52.93
run svhn-rn18-pgd-at-adaiad --method adaiad --dataset svhn :: t3.clean=93.39 t3.fgsm=67.10 t3.pgd=57.26 t3.cw=54.76 t3.aa=52.74
run svhn-rn18-pgd-at-adaad+igdm --method adaad --igdm --dataset svhn :: t3.clean=93.48 t3.fgsm=68.34 t3.pgd=58.74 t3.cw=56.03 t3.aa=53.89

# Tiny-ImageNet: $RIFT is the path of RiFT's checkpoint, which is on no hub; where it is not set, a WRN-34-10 trained by this
# script with PGD-AT stands in, and nothing there is the paper's number any more
eval tiny-imagenet-teacher --eval-only $RIFT --student wrn-34-10 --dataset tiny-imagenet --attacks clean,pgd,aa :: t1.clean=52.54 t1.pgd=25.52 t1.aa=21.78

# Tiny-ImageNet, PreActResNet-18, trained without a teacher, measured against each: table 14
run tiny-imagenet-parn18-pgd-at --method pgd-at --dataset tiny-imagenet --teacher $RIFT --teacher-arch wrn-34-10 :: t14.clean=50.13 t14.pgd=17.10 t14.aa=14.58 t14.gd=0.126 t14.gc=0.490
run tiny-imagenet-parn18-trades --method trades --dataset tiny-imagenet --teacher $RIFT --teacher-arch wrn-34-10 :: t14.clean=46.51 t14.pgd=19.51 t14.aa=14.89 t14.gd=0.094 t14.gc=0.447

# Tiny-ImageNet, PreActResNet-18, teacher RiFT: table 14
run tiny-imagenet-parn18-pgd-at+igdm --method pgd-at --igdm --dataset tiny-imagenet --teacher $RIFT --teacher-arch wrn-34-10 :: t14.clean=51.46 t14.pgd=25.04 t14.aa=20.10 t14.gd=0.071 t14.gc=0.672
run tiny-imagenet-parn18-trades+igdm --method trades --igdm --dataset tiny-imagenet --teacher $RIFT --teacher-arch wrn-34-10 :: t14.clean=51.31 t14.pgd=24.10 t14.aa=18.92 t14.gd=0.073 t14.gc=0.649
run tiny-imagenet-parn18-ard --method ard --dataset tiny-imagenet --teacher $RIFT --teacher-arch wrn-34-10 :: t14.clean=50.81 t14.pgd=23.37 t14.aa=19.48 t14.gd=0.081 t14.gc=0.613
run tiny-imagenet-parn18-ard+igdm --method ard --igdm --dataset tiny-imagenet --teacher $RIFT --teacher-arch wrn-34-10 :: t14.clean=50.86 t14.pgd=25.39 t14.aa=20.57 t14.gd=0.069 t14.gc=0.683
run tiny-imagenet-parn18-iad --method iad --dataset tiny-imagenet --teacher $RIFT --teacher-arch wrn-34-10 :: t14.clean=49.89 t14.pgd=23.89 t14.aa=19.10 t14.gd=0.079 t14.gc=0.614
run tiny-imagenet-parn18-iad+igdm --method iad --igdm --dataset tiny-imagenet --teacher $RIFT --teacher-arch wrn-34-10 :: t14.clean=50.02 t14.pgd=25.57 t14.aa=20.69 t14.gd=0.066 t14.gc=0.704
run tiny-imagenet-parn18-akd --method akd --dataset tiny-imagenet --teacher $RIFT --teacher-arch wrn-34-10 :: t14.clean=51.70 t14.pgd=23.86 t14.aa=19.69 t14.gd=0.082 t14.gc=0.612
run tiny-imagenet-parn18-akd+igdm --method akd --igdm --dataset tiny-imagenet --teacher $RIFT --teacher-arch wrn-34-10 :: t14.clean=51.38 t14.pgd=25.25 t14.aa=20.99 t14.gd=0.063 t14.gc=0.720
run tiny-imagenet-parn18-rslad --method rslad --dataset tiny-imagenet --teacher $RIFT --teacher-arch wrn-34-10 :: t14.clean=47.12 t14.pgd=22.14 t14.aa=17.65 t14.gd=0.081 t14.gc=0.567
run tiny-imagenet-parn18-rslad+igdm --method rslad --igdm --dataset tiny-imagenet --teacher $RIFT --teacher-arch wrn-34-10 :: t14.clean=47.54 t14.pgd=23.95 t14.aa=18.35 t14.gd=0.074 t14.gc=0.620
run tiny-imagenet-parn18-adaad --method adaad --dataset tiny-imagenet --teacher $RIFT --teacher-arch wrn-34-10 :: t14.clean=51.54 t14.pgd=24.65 t14.aa=20.60 t14.gd=0.064 t14.gc=0.738
run tiny-imagenet-parn18-adaad+igdm --method adaad --igdm --dataset tiny-imagenet --teacher $RIFT --teacher-arch wrn-34-10 :: t14.clean=51.21 t14.pgd=25.73 t14.aa=21.17 t14.gd=0.060 t14.gc=0.764

# Figure 4: further teachers of RobustBench for ResNet-18 on CIFAR-100 (LTD and BDM-AT stand above); adaad+igdm with LTD's alpha
run cifar100-rn18-Rice2020Overfitting-ard --method ard --teacher robustbench:Rice2020Overfitting --attacks clean,pgd,aa :: f4
run cifar100-rn18-Rice2020Overfitting-iad --method iad --teacher robustbench:Rice2020Overfitting --attacks clean,pgd,aa :: f4
run cifar100-rn18-Rice2020Overfitting-akd --method akd --teacher robustbench:Rice2020Overfitting --attacks clean,pgd,aa :: f4
run cifar100-rn18-Rice2020Overfitting-rslad --method rslad --teacher robustbench:Rice2020Overfitting --attacks clean,pgd,aa :: f4
run cifar100-rn18-Rice2020Overfitting-adaad --method adaad --teacher robustbench:Rice2020Overfitting --attacks clean,pgd,aa :: f4
run cifar100-rn18-Rice2020Overfitting-adaad+igdm --method adaad --igdm --teacher robustbench:Rice2020Overfitting --attacks clean,pgd,aa :: f4
run cifar100-rn18-Sitawarin2020Improving-ard --method ard --teacher robustbench:Sitawarin2020Improving --attacks clean,pgd,aa :: f4
run cifar100-rn18-Sitawarin2020Improving-iad --method iad --teacher robustbench:Sitawarin2020Improving --attacks clean,pgd,aa :: f4
run cifar100-rn18-Sitawarin2020Improving-akd --method akd --teacher robustbench:Sitawarin2020Improving --attacks clean,pgd,aa :: f4
run cifar100-rn18-Sitawarin2020Improving-rslad --method rslad --teacher robustbench:Sitawarin2020Improving --attacks clean,pgd,aa :: f4
run cifar100-rn18-Sitawarin2020Improving-adaad --method adaad --teacher robustbench:Sitawarin2020Improving --attacks clean,pgd,aa :: f4
run cifar100-rn18-Sitawarin2020Improving-adaad+igdm --method adaad --igdm --teacher robustbench:Sitawarin2020Improving --attacks clean,pgd,aa :: f4
run cifar100-rn18-Chen2020Efficient-ard --method ard --teacher robustbench:Chen2020Efficient --attacks clean,pgd,aa :: f4
run cifar100-rn18-Chen2020Efficient-iad --method iad --teacher robustbench:Chen2020Efficient --attacks clean,pgd,aa :: f4
run cifar100-rn18-Chen2020Efficient-akd --method akd --teacher robustbench:Chen2020Efficient --attacks clean,pgd,aa :: f4
run cifar100-rn18-Chen2020Efficient-rslad --method rslad --teacher robustbench:Chen2020Efficient --attacks clean,pgd,aa :: f4
run cifar100-rn18-Chen2020Efficient-adaad --method adaad --teacher robustbench:Chen2020Efficient --attacks clean,pgd,aa :: f4
run cifar100-rn18-Chen2020Efficient-adaad+igdm --method adaad --igdm --teacher robustbench:Chen2020Efficient --attacks clean,pgd,aa :: f4
run cifar100-rn18-Hendrycks2019Using-ard --method ard --teacher robustbench:Hendrycks2019Using --attacks clean,pgd,aa :: f4
run cifar100-rn18-Hendrycks2019Using-iad --method iad --teacher robustbench:Hendrycks2019Using --attacks clean,pgd,aa :: f4
run cifar100-rn18-Hendrycks2019Using-akd --method akd --teacher robustbench:Hendrycks2019Using --attacks clean,pgd,aa :: f4
run cifar100-rn18-Hendrycks2019Using-rslad --method rslad --teacher robustbench:Hendrycks2019Using --attacks clean,pgd,aa :: f4
run cifar100-rn18-Hendrycks2019Using-adaad --method adaad --teacher robustbench:Hendrycks2019Using --attacks clean,pgd,aa :: f4
run cifar100-rn18-Hendrycks2019Using-adaad+igdm --method adaad --igdm --teacher robustbench:Hendrycks2019Using --attacks clean,pgd,aa :: f4
run cifar100-rn18-Cui2020Learnable_34_10_LBGAT6-ard --method ard --teacher robustbench:Cui2020Learnable_34_10_LBGAT6 --attacks clean,pgd,aa :: f4
run cifar100-rn18-Cui2020Learnable_34_10_LBGAT6-iad --method iad --teacher robustbench:Cui2020Learnable_34_10_LBGAT6 --attacks clean,pgd,aa :: f4
run cifar100-rn18-Cui2020Learnable_34_10_LBGAT6-akd --method akd --teacher robustbench:Cui2020Learnable_34_10_LBGAT6 --attacks clean,pgd,aa :: f4
run cifar100-rn18-Cui2020Learnable_34_10_LBGAT6-rslad --method rslad --teacher robustbench:Cui2020Learnable_34_10_LBGAT6 --attacks clean,pgd,aa :: f4
run cifar100-rn18-Cui2020Learnable_34_10_LBGAT6-adaad --method adaad --teacher robustbench:Cui2020Learnable_34_10_LBGAT6 --attacks clean,pgd,aa :: f4
run cifar100-rn18-Cui2020Learnable_34_10_LBGAT6-adaad+igdm --method adaad --igdm --teacher robustbench:Cui2020Learnable_34_10_LBGAT6 --attacks clean,pgd,aa :: f4

# Figure 2b: the remainder along 100 epochs, in log.jsonl; TRADES with beta 0 and no attack is natural training
run cifar100-rn18-natural-e100 --method trades --trades-beta 0 --steps 0 --epochs 100 --attacks clean,fgsm,pgd :: f2
run cifar100-rn18-pgd-at-e100 --method pgd-at --epochs 100 --attacks clean,fgsm,pgd :: f2
run cifar100-rn18-bdm-ard-e100 --method ard --epochs 100 --attacks clean,fgsm,pgd :: f2
ROWS
}

# Table 9: what a finished row is put through where OOD_PYTHON has OODRobustBench, whose README recommends 3.8. The suite's
# mm5 attack needs a CUDA GPU, and RobustBench's loader gets CIFAR-100-C from Zenodo. For CIFAR-100 the suite has corruptions but no
# natural shifts, its README's threat shifts are CIFAR-10's; what the paper ran is not known here. Ours: OOD_d is the mean over
# 15 corruptions at 5 severities, OOD_t over the README's 6 threats; LPA and PPGD then use the suite's ImageNet AlexNet.
ood_program() { cat <<'PROGRAM'
import fcntl, json, os, sys
import torch
import models
student = models.build("rn18", 100)
models.load_state(student, sys.argv[1] + "/student.pt", "rn18")
os.makedirs("data", exist_ok=True)
data = os.path.abspath("data")
os.chdir(sys.argv[1])                       # the suite keeps each shift in model_info, and goes on from there
from oodrobustbench.eval import benchmark
from robustbench.data import load_cifar100, load_cifar100c
with open(data + "/.oodrobustbench", "w") as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)        # one worker downloads
    load_cifar100(1, data)
    load_cifar100c(1, 1, data)
def measure(attack, adv_norm, eps, **shifts):
    return benchmark(student.eval(), n_examples=10000, dataset="cifar100", attack=attack, threat_model="Linf", adv_norm=adv_norm,
                     eps=eps, to_disk=True, model_name="student", data_dir=data, device=torch.device("cuda"), batch_size=100,
                     **shifts)
clean, robust, found = measure("mm5", "Linf", 8 / 255, corruption_models=["corruptions"], severities=[1, 2, 3, 4, 5])
cells = [cell for severities in found["corruptions"].values() for cell in severities.values()]
assert len(cells) == 75, "%d cells of CIFAR-100-C, not 75" % len(cells)
threats = [("lpa", None, 0.5), ("ppgd", None, 0.5), ("stadv", None, 0.05), ("recolor", None, 0.06), ("mm5", "L2", 0.5),
           ("mm5", "Linf", 0.0470588)]
threats = {"%s %s %g" % (attack, norm or "-", eps): 100 * measure(attack, norm, eps)[1] for attack, norm, eps in threats}
with open("ood.part", "w") as file:
    json.dump(dict(clean_ood_d=100 * sum(cell["clean"] for cell in cells) / 75,
                   robust_ood_d=100 * sum(cell["Linf-mm5-0.031373"] for cell in cells) / 75,
                   robust_ood_t=sum(threats.values()) / 6, clean=100 * clean, mm5=100 * robust, threats=threats), file, indent=1)
os.replace("ood.part", "ood.json")
PROGRAM
}

[ "${BASH_VERSION-}" ] || { echo "run_all.sh: this is a script for bash" >&2; exit 2; }
set -uo pipefail
complain() { echo "run_all.sh: $*" >&2; exit 2; }
[[ ! ${RIFT-} || $RIFT = /* ]] || RIFT=$PWD/$RIFT
here=$(cd "$(dirname "$0")" && pwd)
if [[ ! -e $here/igdm.py && ${SLURM_SUBMIT_DIR-} ]]; then                # Slurm runs a copy of this script from elsewhere
    here=$SLURM_SUBMIT_DIR
    mkdir -p "$here/runs"
    exec >>"$here/runs/slurm-${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}_${SLURM_ARRAY_TASK_ID:-0}.txt" 2>&1
fi
[[ -e $here/igdm.py ]] || complain "no igdm.py in $here: run or submit it from its folder"
cd "$here" || exit 2

((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] >= 402)) || complain "bash $BASH_VERSION is too old: 4.2 or newer is needed"
PYTHON=${PYTHON:-python} mode=run seeds=0 wanted=() smoke=() runs=runs extra=()
while (($#)); do
    case $1 in
        --list | --dry-run) mode=${1#--} ;;
        --smoke)
            runs=runs/smoke
            smoke=(--dataset digits --student wrn-10-1 --limit-train 256 --limit-test 50 --epochs 2 --steps 2)
            smoke+=(--device cpu --threads 1) ;;
        --seeds)
            seeds=${2-}
            [[ $seeds =~ ^[0-9]+(\ +[0-9]+)*$ ]] || complain "--seeds \"$seeds\": must be as in \"0 1 2\""
            shift ;;
        -h | --help) sed -n '/^# Tables/,/^$/ s/^# \{0,1\}//p' "$here/${0##*/}"; exit ;;
        -*) complain "$1? bash run_all.sh --help" ;;
        *) wanted+=("$1") ;;
    esac
    shift
done
OOD_PYTHON=${OOD_PYTHON:-$PYTHON}
for word in flock "$PYTHON" "$OOD_PYTHON"; do
    command -v "$word" >/dev/null || complain "$word: no such command (flock is util-linux's; PYTHON=... names the python)"
done
if ((${#smoke[@]})); then
    [[ ${#wanted[@]} = 0 && $mode != dry-run ]] || complain "--smoke takes no tables, and no --dry-run"
    GPUS=${GPUS-0 1}                        # two workers, with a thread each and no GPU
fi
read -ra gpus <<<"${GPUS-}"
[[ ! ${EXTRA-} ]] || mapfile -t extra < <(xargs printf '%s\n' <<<"$EXTRA")
for word in ${extra[@]+"${extra[@]}"}; do       # under the name of a row there would be another run
    [[ ! ${word%%=*} =~ ^--(out|seed|method|igdm|match|dataset|eval-only)$ ]] || complain "EXTRA: not $word"
done

# ----------------------------------------------------------------------------------------------------------------------
# The rows that are wanted: names[i], with the seed; tables[i]; commands[i], the flags, one word a line

names=() tables=() commands=() evals=0 keyless=0 values=0
declare -A kinds=() known=()

add_row() {
    local in="" word hit="" argv=() line=" ${given[*]} " teacher=one kind n=0 command
    for word in "${printed[@]}"; do
        [[ $word =~ ^(t([0-9]+)[a-z]*\.[a-z_@0-9-]+=[0-9.]+|f[0-9])$ ]] || complain "$name: $word?"
        [[ $word != *=* ]] || ((++n))
        word=${BASH_REMATCH[2]:-$word}
        [[ " $in " = *" $word "* ]] || in+=${in:+ }$word
    done
    for word in $in "$name"; do
        known[$word]=1
        [[ ${#wanted[@]} -gt 0 && " ${wanted[*]} " != *" $word "* ]] || hit=1
    done
    [[ $hit ]] || return
    for word in "${given[@]}"; do
        # shellcheck disable=SC2016
        [[ $word != '$RIFT' ]] || word=${RIFT:-pgd-at}
        argv+=("$word")
    done
    if ((${#smoke[@]})); then               # a kind is a row without its data set, networks and amounts; of each only the first
        [[ ! $line =~ --method\ (pgd-at|trades)\  || $line = *" --igdm "* || $line = *" --teacher "* ]] || teacher=none
        [[ ! $line =~ --teacher\ [^\ ]*, ]] || teacher=several
        kind=$teacher$(sed -E 's/ --(dataset|student|teacher|teacher-arch|alpha|epochs|attacks) [^ ]*//g
            s/ (--eval-only|--adaad-lambda) [^ ]*/ \1/' <<<"$line")
        [[ ! ${kinds[$kind]-} ]] || return
        kinds[$kind]=1 argv+=("${smoke[@]}")    # the last of two equal flags counts
        [[ $type = run ]] || argv+=(--eval-only pgd-at)
        [[ $teacher = none ]] || argv+=(--teacher pgd-at --teacher-arch wrn-10-1 --teacher-epochs 1)
        [[ $teacher != several ]] || argv+=(--teacher "pgd-at,$runs/teacher-digits-wrn-10-1-epochs1-limit-train256/student.pt")
        word=clean,fgsm,pgd,cw
        [[ ! $kind =~ --method\ rslad ]] || word+=",aa --aa-n 4"
        # shellcheck disable=SC2206
        argv+=(--attacks $word)
    fi
    argv+=(--seed "$seed" --out "$runs/$name-s$seed" ${extra[@]+"${extra[@]}"})
    printf -v command '%s\n' "${argv[@]}"
    names+=("$name-s$seed") tables+=("$in") commands+=("${command%$'\n'}")
    [[ $type = run ]] || ((++evals))
    ((n)) || ((++keyless))
    [[ $seed != "${seeds%% *}" ]] || ((values += n))
}

for seed in $seeds; do
    while read -r type name rest; do
        [[ $type = run || ($type = eval && $seed = "${seeds%% *}") ]] || continue
        read -ra given <<<"${rest% :: *}"
        read -ra printed <<<"${rest#*:: }"
        add_row
    done < <(rows)
done
for word in ${wanted[@]+"${wanted[@]}"}; do
    [[ ${known[$word]-} ]] || complain "$word? Give tables, 1 to 18, f2 or f4, or the names of rows"
done

# ----------------------------------------------------------------------------------------------------------------------

if [[ $mode = list ]]; then
    finished=0
    for i in "${!names[@]}"; do
        out=$runs/${names[i]} state=-
        if [[ -e $out/.done ]]; then
            state=finished
            ((++finished))
        elif [[ -e $out/.claim ]] && ! flock -n "$out/.claim" true; then
            state=running
        elif [[ -e $out/.failed ]]; then
            read -r state _ <"$out/.failed"
            state="failed $state"
        elif [[ -e $out/config.json ]]; then
            state=begun
        fi
        printf '%-10s %-18s %s\n' "$state" "${tables[i]}" "${names[i]}"
    done
    echo "$((${#names[@]} - evals - keyless)) training runs with printed values, $keyless for figures alone," \
        "$evals evaluations of teachers; $values printed values; $finished of ${#names[@]} finished"
    exit
fi

if [[ $mode = dry-run ]]; then
    printf '%s\n\n' "${commands[@]}" | "$PYTHON" -c '
import contextlib, io, shlex, sys, time
started = time.monotonic()
import igdm
commands, invalid = [block.split("\n") for block in sys.stdin.read().strip("\n").split("\n\n")], 0
for argv in commands:
    print("python igdm.py", shlex.join(argv))
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            igdm.resolve(argv)
    except igdm.UserError as error:
        invalid += 1
        print(f"    INVALID: {error}")
print(f"{len(commands)} commands, {invalid} invalid; {time.monotonic() - started:.1f} s")
sys.exit(invalid > 0)'
    exit
fi

# ----------------------------------------------------------------------------------------------------------------------
# Workers. A row is claimed by a lock on its .claim, which dies with its worker and the python that this has started.

label=${smoke[*]:+smoke: }
job=${SLURM_ARRAY_JOB_ID:-${SLURM_JOB_ID:-$$@$HOSTNAME/$(date +%s)}}.${SLURM_RESTART_COUNT:-0}
children=() stopped=0 suite=
say() { printf '%(%F %T)T  %s%s\n' -1 "$label" "$*"; }

# shellcheck disable=SC2317  # the traps call it
stop() {            # stop CODE: python saves and exits with 143; a worker hands the signal on
    stopped=$1
    ((${#children[@]} == 0)) || kill -TERM "${children[@]}" 2>/dev/null
}
trap 'stop 143' TERM HUP
trap 'stop 130' INT

await() {           # the exit status of a child into code; a signal to this shell ends wait before the child ends
    while wait "$1"; code=$?; kill -0 "$1" 2>/dev/null; do :; done
}

start() {           # start OUTPUT COMMAND...: its exit status into code
    set -m                                  # a process group of its own: Ctrl-C reaches it through stop alone, once
    "${@:2}" </dev/null >>"$1" 2>&1 &
    set +m
    children=($!)
    ((!stopped)) || kill -TERM $!
    await $!
    children=()
}

in_table_9() { [[ ! $label && " ${tables[$1]} " = *" 9 "* ]]; }
complete() {
    [[ -e $runs/${names[$1]}/.done ]] && { [[ ! $suite || -e $runs/${names[$1]}/ood.json ]] || ! in_table_9 "$1"; }
}
hint() {            # what table 9 still lacks of a finished row, where it does
    [[ ! $suite && ! -e $runs/${names[$1]}/ood.json ]] && in_table_9 "$1" || return 0
    say "table 9 of ${names[$1]}: no OODRobustBench in $OOD_PYTHON. pip install" \
        "git+https://github.com/OODRobustBench/OODRobustBench.git (Python 3.8; OOD_PYTHON=... names it); then this command runs" \
        "oodrobustbench.eval.benchmark on $runs/${names[$1]}/student.pt, CIFAR-100-C and six threat shifts, into ood.json"
}

do_row() {
    local out=$runs/${names[$1]} argv
    if complete "$1" || [[ $(cat "$out/.failed" 2>/dev/null) = *" $job" ]]; then
        return 0
    fi
    mkdir -p "$out"
    exec 9>"$out/.claim"
    if flock -w 1 9 && ! complete "$1"; then
        code=0
        if [[ ! -e $out/.done ]]; then
            mapfile -t argv <<<"${commands[$1]}"
            say "begins: ${names[$1]}; $out/output.txt"
            [[ ! $label ]] || echo "smoke: a miniature, no number here means anything" >>"$out/output.txt"
            start "$out/output.txt" "$PYTHON" -u igdm.py "${argv[@]}"
            ((code)) || touch "$out/.done"
        fi
        if ((!code && !stopped)) && ! complete "$1"; then
            say "begins: ${names[$1]} in OODRobustBench; $out/output.txt"
            start "$out/output.txt" "$OOD_PYTHON" -u -c "$(ood_program)" "$out"
        fi
        case $code in
            0)
                rm -f "$out/.failed"
                say "finished: ${names[$1]}"
                hint "$1" ;;
            75) say "busy, skipped: ${names[$1]}" ;;
            130 | 143)
                say "stopped: ${names[$1]}"
                ((stopped)) || stopped=$code ;;
            *)
                echo "$code $job" >"$out/.failed"
                say "FAILED with $code: ${names[$1]}: $(tail -n 1 "$out/output.txt")" ;;
        esac
    fi
    exec 9>&-
}

worker() {          # worker K [GPU]: all rows, from the K-th of equal parts on, and around
    local i n=${#todo[@]}
    children=()
    trap 'stop 143' TERM HUP
    trap '' INT                             # the main shell hands it on
    [[ ! ${2-} ]] || export CUDA_VISIBLE_DEVICES=$2
    for ((i = 0; i < n && !stopped; ++i)); do
        do_row "${todo[(i + $1 * n / workers) % n]}"
    done
    exit "$stopped"
}

if [[ ! $label && " ${tables[*]} " = *" 9 "* ]]; then
    "$OOD_PYTHON" -c 'import importlib.util as u, sys; sys.exit(not u.find_spec("oodrobustbench"))' && suite=1
fi
mkdir -p "$runs"
flock -w 60 "$runs/.flock" true || complain "cannot lock a file in $runs, as workers need to (Lustre: mount it with -o flock)"
todo=()
for i in "${!names[@]}"; do
    if complete "$i"; then
        hint "$i"
    else
        todo+=("$i")
    fi
done
say "${#todo[@]} of ${#names[@]} rows are not finished"
# shellcheck disable=SC2016
[[ ${RIFT-} || " ${tables[*]} " != *" 14 "* ]] || say 'RIFT is not set: the Tiny-ImageNet rows take a PGD-AT teacher of their own'
((${#todo[@]})) || exit 0
[[ ! $label ]] || do_row 0                  # the teacher, which others read

each=$((${#gpus[@]} ? ${#gpus[@]} : 1))
workers=$((each * ${SLURM_ARRAY_TASK_COUNT:-1}))
first=$((each * (${SLURM_ARRAY_TASK_ID:-0} - ${SLURM_ARRAY_TASK_MIN:-0})))
children=()
for ((k = 0; k < each && !stopped; ++k)); do
    worker $((first + k)) "${gpus[k]-}" &
    children+=($!)
done
for pid in ${children[@]+"${children[@]}"}; do
    await "$pid"
    ((code < 128 || stopped)) || stopped=$code
done

failed=0 finished=0
for i in "${todo[@]}"; do
    out=$runs/${names[i]}
    if complete "$i"; then
        ((++finished))
    elif [[ $(cat "$out/.failed" 2>/dev/null) = *" $job" ]]; then
        ((++failed))
        say "failed with $(cut -d' ' -f1 "$out/.failed"): ${names[i]}: $(tail -n 1 "$out/output.txt")"
    fi
done
left=$((${#todo[@]} - finished - failed))
say "$finished of ${#todo[@]} finished, $failed failed, $left left, stopped or with other workers; $SECONDS s"
((stopped)) && exit "$stopped"
exit $((failed > 0))
