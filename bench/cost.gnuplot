# SPDX-License-Identifier: GPL-2.0
# Plot the results of bench/run-bench, from results.tsv in the current directory: cost against
# spans (spans.svg), pages (pages.svg) and buffers (buffers.svg), for both kernels.

set terminal svg size 1100,480 font "sans,12" background "white" noenhanced
set logscale xy
set key top left
set grid
set ylabel "instructions"
set style data linespoints

# The values of a cell, without absent ones
of(metric, cell) = "< awk -F'\\t' '$1 == \"".metric."\" && $2 == \"".cell."\" && $4 != \"absent\" { print $3, $4 }' results.tsv"
cost(metric, cell) = system("awk -F'\\t' '$1 == \"".metric."\" && $2 == \"".cell."\" { print $4; exit }' results.tsv") + 0

# The base is grey; each metric of the patches has a colour.
set linetype 1 linecolor rgb "#0060ad" linewidth 2 pointtype 7 pointsize 0.6
set linetype 2 linecolor rgb "#c04000" linewidth 2 pointtype 7 pointsize 0.6
set linetype 3 linecolor rgb "#408000" linewidth 2 pointtype 7 pointsize 0.6
set linetype 11 linecolor rgb "#909090" linewidth 2 pointtype 4 pointsize 0.8
set linetype 12 linecolor rgb "#909090" linewidth 2 pointtype 8 pointsize 0.8

set output "spans.svg"
set multiplot layout 1,2
set xlabel "spans of the buffer"
set title "4 KiB fault"
unset logscale y
set yrange [0:*]
set key bottom left
plot cost("fault-4k-device", "base") title "base, device file" with lines linetype 11, \
	cost("fault-4k-device", "plain") title "ours, device file" with lines linetype 1, \
	of("fault-4k-dmabuf", "plain") title "ours, DMABUF" linetype 2
set logscale y
set yrange [*:*]
set key top left
set title "export"
plot of("export", "base") title "base" linetype 11, \
	of("export", "plain") title "ours" linetype 2
unset multiplot

set output "pages.svg"
set multiplot layout 1,2
set xlabel "4 KiB pages that are mapped"
set title "taking the pages away"
plot of("command-toggle-pages", "base") title "base, memory off and on" linetype 11, \
	of("command-toggle-pages", "plain") title "ours, memory off and on" linetype 1, \
	of("revoke-pages", "plain") title "ours, revoke" linetype 2
set title "fork() and the child's exit"
plot of("fork-4k-device", "base") title "base, device file" linetype 11, \
	of("fork-4k-device", "plain") title "ours, device file" linetype 1, \
	of("fork-4k-dmabuf", "plain") title "ours, DMABUF" linetype 2
unset multiplot

set output "buffers.svg"
set multiplot layout 1,2
set xlabel "DMABUFs, or mappings of the device file"
set title "write to PCI_COMMAND, memory stays enabled"
plot of("command-same-buffers", "base") title "base, DMABUFs" linetype 11, \
	of("command-same-mappings", "base") title "base, mappings" linetype 12, \
	of("command-same-buffers", "plain") title "ours, DMABUFs" linetype 1, \
	of("command-same-mappings", "plain") title "ours, mappings" linetype 2
set title "memory off and on, and the revoke of one"
plot of("command-toggle-buffers", "base") title "base, DMABUFs" linetype 11, \
	of("command-toggle-mappings", "base") title "base, mappings" linetype 12, \
	of("command-toggle-buffers", "plain") title "ours, DMABUFs" linetype 1, \
	of("command-toggle-mappings", "plain") title "ours, mappings" linetype 2, \
	of("revoke-buffers", "plain") title "ours, revoke of one" linetype 3
unset multiplot
