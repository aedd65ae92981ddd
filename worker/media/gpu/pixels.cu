// One picture into one frame of a clip: a thread per pixel of the target square.
#include "pixels.h"

extern "C" __global__ void draw_picture(const unsigned char *luma, const unsigned char *u, const unsigned char *v,
                                        int width, int height, int stride, int chroma_width, int chroma_height,
                                        int chroma_stride, int step, int sample_bytes, float black, float y,
                                        float rv, float gu, float gv, float bu, int a, int b, int c, int d,
                                        unsigned char *out, int size) {
    const int column = blockIdx.x * blockDim.x + threadIdx.x, row = blockIdx.y * blockDim.y + threadIdx.y;
    if (column >= size || row >= size) return;
    const Picture picture = {luma,         u,             v,    width, height, stride, chroma_width, chroma_height,
                             chroma_stride, step, sample_bytes};
    const Matrix matrix = {black, y, rv, gu, gv, bu};
    const Turn turn = {a, b, c, d};
    draw(picture, matrix, turn, out, size, column, row);
}
