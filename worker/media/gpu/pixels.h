// One pixel of a clip from a decoded picture: antialiased bilinear resize, YUV to RGB, turned upright.
//
// Plain C++, so that the same arithmetic runs under CUDA and, in tests, on a CPU. The filter and its edges are
// those of libswscale's SWS_BILINEAR: a triangle as wide as one target pixel on either side, at least one
// sample; what lies beyond an edge counts as the sample at that edge; chroma lies in the middle of its luma.
#pragma once

#ifdef __CUDACC__
#define ANYWHERE __device__ inline
#else
#include <math.h>
#define ANYWHERE inline
#endif

// A decoded picture. Strides are bytes; `step` is the distance in samples between two of one chroma plane, 2
// where U and V alternate. Samples of 2 bytes hold their bits at the top, as NVDEC writes them.
struct Picture {
    const unsigned char *luma, *u, *v;
    int width, height, stride;
    int chroma_width, chroma_height, chroma_stride, step;
    int sample_bytes;
};

// R = y * (Y - black) + rv * (V - 128) and so on, in levels of 8 bits.
struct Matrix {
    float black, y, rv, gu, gv, bu;
};

// Signs of a display matrix: a pixel stored at (x, y) is shown at (a*x + c*y, b*x + d*y).
struct Turn {
    int a, b, c, d;
};

// The samples of one axis that make up one target pixel. Like libswscale, it steps over the source in units of
// 1/65536 sample; the centre is kept as a whole and a fraction, which a float alone cannot hold for wide pictures.
struct Taps {
    int first, last, whole;
    float fraction, slope;

    ANYWHERE Taps(int at, int source, int target) {
        const long long pace = (((long long)source << 16) + target / 2) / target;
        const long long centre = (2LL * at + 1) * pace - 65536;  // in units of 1/131072
        const float reach = source > target ? (float)source / (float)target : 1.0f;
        whole = (int)(centre >> 17);
        fraction = (float)(centre & 131071) * (1.0f / 131072.0f);
        slope = 1.0f / reach;
        const int count = source > target ? 1 + (2 * source + target - 1) / target : 3;
        const int start = (int)((centre - (count - 2) * 65536LL) / 131072);  // towards 0, so an edge may lose a tap
        first = whole + (int)ceilf(fraction - reach);
        if (first < start) first = start;
        last = whole + (int)floorf(fraction + reach);
    }

    ANYWHERE float weight(int at) const {
        const float left = 1.0f - fabsf((float)(at - whole) - fraction) * slope;
        return left > 0.0f ? left : 0.0f;
    }
};

ANYWHERE int clamped(int at, int count) { return at < 0 ? 0 : at < count ? at : count - 1; }

ANYWHERE float sample(const unsigned char *row, int at, int sample_bytes) {
    return sample_bytes == 1 ? (float)row[at] : (float)((const unsigned short *)row)[at] * (1.0f / 256.0f);
}

// The plane's value at the target pixel (x, y) of a square of `size`, in levels of 8 bits.
ANYWHERE float resized(const unsigned char *plane, int width, int height, int stride, int step, int sample_bytes,
                       int x, int y, int size) {
    const Taps across(x, width, size), down(y, height, size);
    float sum = 0.0f, weights = 0.0f;
    for (int row = down.first; row <= down.last; ++row) {
        const unsigned char *line = plane + (long long)clamped(row, height) * stride;
        const float weight = down.weight(row);
        float part = 0.0f, parts = 0.0f;
        for (int column = across.first; column <= across.last; ++column) {
            const float share = across.weight(column);
            part += share * sample(line, clamped(column, width) * step, sample_bytes);
            parts += share;
        }
        sum += weight * part;
        weights += weight * parts;
    }
    return sum / weights;
}

ANYWHERE unsigned char level(float value) {
    return (unsigned char)(value < 0.0f ? 0.0f : value > 255.0f ? 255.0f : floorf(value + 0.5f));
}

// Writes pixel (x, y) of `out`, planes R, G and B of size * size bytes each.
ANYWHERE void draw(const Picture &picture, const Matrix &matrix, const Turn &turn, unsigned char *out, int size,
                   int x, int y) {
    const int down = (turn.b ? turn.b : turn.d) > 0 ? y : size - 1 - y;
    const int across = (turn.c ? turn.c : turn.a) > 0 ? x : size - 1 - x;
    const int from_x = turn.b ? down : across, from_y = turn.b ? across : down;
    const Picture &p = picture;
    const float luma =
        matrix.y * (resized(p.luma, p.width, p.height, p.stride, 1, p.sample_bytes, from_x, from_y, size) - matrix.black);
    const float u = resized(p.u, p.chroma_width, p.chroma_height, p.chroma_stride, p.step, p.sample_bytes, from_x,
                            from_y, size) - 128.0f;
    const float v = resized(p.v, p.chroma_width, p.chroma_height, p.chroma_stride, p.step, p.sample_bytes, from_x,
                            from_y, size) - 128.0f;
    unsigned char *pixel = out + (long long)y * size + x;
    const long long plane = (long long)size * size;
    pixel[0] = level(luma + matrix.rv * v);
    pixel[plane] = level(luma + matrix.gu * u + matrix.gv * v);
    pixel[2 * plane] = level(luma + matrix.bu * u);
}
