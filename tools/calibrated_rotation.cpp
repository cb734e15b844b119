#include "tools/calibrated_rotation.h"

#include "ref/error.h"
#include "ref/quant.h"

#include <Eigen/Eigenvalues>
#include <algorithm>
#include <string>

namespace rotkv::tools {

namespace {

using Matrix = Eigen::MatrixXd;

// U^T: eigenvectors as rows, by falling eigenvalue.
Matrix eigenvectors(const Moment& moment) {
    const int64_t d = moment.d();
    const Eigen::Map<const Matrix> sum(moment.sum().data(), d, d);
    const Eigen::SelfAdjointEigenSolver<Matrix> solver(sum);
    require(solver.info() == Eigen::Success, ErrorCode::unsupported,
            "calibrate: a second moment has no eigenvectors, it is not finite");
    Matrix rows = solver.eigenvectors().transpose().colwise().reverse();
    for (int64_t i = 0; i < d; ++i) {
        int64_t largest = 0;
        rows.row(i).cwiseAbs().maxCoeff(&largest);
        if (rows(i, largest) < 0) rows.row(i) *= -1;
    }
    return rows;
}

int64_t reversed_bits(int64_t x, int64_t n) {
    int64_t y = 0;
    for (; n > 1; n /= 2, x /= 2) y = 2 * y + x % 2;
    return y;
}

// P^T H of heads of d.
Matrix spread(int64_t d) {
    MatrixPointer h;
    try {
        h = find_matrix_source("kronecker")->at({.parts = {d}});
    } catch (const Error& error) {
        throw Error(ErrorCode::unsupported, std::string("oscar: ") + error.what());
    }
    const int64_t power = d & -d;  // whose bits are reversed; 12 and 20 have a part of it
    Matrix rows(d, d);
    for (int64_t j = 0; j < d; ++j) {
        const int64_t from = j / power * power + reversed_bits(j % power, power);
        for (int64_t i = 0; i < d; ++i) rows(j, i) = double(h->values()[std::size_t(from * d + i)]);
    }
    return rows;
}

const Moment& moment_of(const SeenHead& head, Side side, CalibratedKind kind) {
    if (side == Side::v) return head.values;
    return kind == CalibratedKind::pca ? head.keys : head.queries;
}

// y = M x, or M^T x.
void turn(std::span<const float> m, const float* x, float* y, int64_t d, bool inverse) {
    if (m.empty()) {
        std::copy_n(x, d, y);
        return;
    }
    std::vector<double> sums(static_cast<std::size_t>(d));
    for (int64_t i = 0; i < d; ++i) {
        for (int64_t j = 0; j < d; ++j) {
            const double entry = double(m[std::size_t(i * d + j)]);
            sums[std::size_t(inverse ? j : i)] += entry * double(x[inverse ? i : j]);
        }
    }
    for (int64_t i = 0; i < d; ++i) y[i] = float(sums[std::size_t(i)]);
}

// What a row becomes in a type.
void pass(const CacheType& type, std::vector<float>& x, Side side) {
    std::vector<std::byte> bytes(std::size_t(row_bytes(type, int64_t(x.size()))));
    if (type.format() != nullptr) {
        const RowContext context{.side = side};
        type.format()->encode(bytes, x, context);
        return type.format()->decode(x, bytes, context);
    }
    ref::quantize_row(type.cells(), bytes.data(), x.data(), int64_t(x.size()));
    ref::dequantize_row(type.cells(), x.data(), bytes.data(), int64_t(x.size()));
}

}  // namespace

std::vector<float> calibrated_matrices(const Calibration& seen, Side side, CalibratedKind kind,
                                       int64_t layers) {
    const int64_t d = seen.d(side);
    const Matrix last = kind == CalibratedKind::oscar ? spread(d) : Matrix::Identity(d, d);
    std::vector<float> all;
    for (int64_t l = 0; l < layers; ++l) {
        for (int64_t h = 0; h < seen.kv_heads(); ++h) {
            Matrix m = Matrix::Identity(d, d);
            if (seen.has_rows(l)) {
                const SeenHead& head = seen.seen(Calibration::Part::learnt, l, h);
                m = last * eigenvectors(moment_of(head, side, kind));
            }
            for (int64_t i = 0; i < d; ++i) {
                for (int64_t j = 0; j < d; ++j) all.push_back(float(m(i, j)));
            }
        }
    }
    return all;
}

double type_error(const CacheType& type, const SeenHead& seen, Side side,
                  std::span<const float> matrix) {
    const std::vector<float>& rows = side == Side::k ? seen.k : seen.v;
    const int64_t d = side == Side::k ? seen.keys.d() : seen.values.d();
    const auto square = [&](const float* x) {
        double sum = 0;
        for (int64_t i = 0; i < d; ++i) sum += double(x[i]) * double(x[i]);
        return side == Side::k ? seen.queries.square(x) : sum;
    };
    std::vector<float> y(static_cast<std::size_t>(d)), error(y);
    double errors = 0, all = 0;
    for (std::size_t first = 0; first < rows.size(); first += std::size_t(d)) {
        const float* x = &rows[first];
        turn(matrix, x, y.data(), d, false);
        pass(type, y, side);
        turn(matrix, y.data(), error.data(), d, true);
        for (int64_t i = 0; i < d; ++i) error[std::size_t(i)] -= x[i];
        errors += square(error.data());
        all += square(x);
    }
    return errors / all;
}

}  // namespace rotkv::tools
